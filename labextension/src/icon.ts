// Four tokens, two of them known already.

import { LabIcon } from '@jupyterlab/ui-components';

const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="16" height="16" viewBox="0 0 16 16">
  <g class="jp-icon3" fill="#616161">
    <rect x="1" y="2" width="6" height="5" rx="1"/>
    <rect x="1" y="9" width="6" height="5" rx="1"/>
    <path d="M10 2h4a1 1 0 0 1 1 1v3a1 1 0 0 1-1 1h-4a1 1 0 0 1-1-1V3a1 1 0 0 1 1-1zm.2 1.2v2.6h3.6V3.2z"/>
    <path d="M10 9h4a1 1 0 0 1 1 1v3a1 1 0 0 1-1 1h-4a1 1 0 0 1-1-1v-3a1 1 0 0 1 1-1zm.2 1.2v2.6h3.6v-2.6z"/>
  </g>
</svg>`;

export const icon = new LabIcon({ name: 'nbkv:panel', svgstr: svg });
