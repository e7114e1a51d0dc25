// The request under way.

import * as React from 'react';

import { Now } from '../protocol';
import { plural, rate } from '../units';

export function Running({ now, stopping }: { now: Now | null; stopping: boolean }): React.JSX.Element {
  const share = now && !now.tokens && now.layers ? now.layer / now.layers : now?.tokens ? 1 : 0;
  return (
    <section className="nbkv-lab-now" aria-label="Request under way" data-running={Boolean(now)}>
      <div className="nbkv-lab-pair">
        <span className="nbkv-lab-cut">{now ? `Request ${now.request}` : 'No request running'}</span>
        <span className="nbkv-lab-number">{now ? (stopping ? 'stopping…' : doing(now)) : ''}</span>
      </div>
      <div className="nbkv-lab-bar nbkv-lab-progress" data-busy={Boolean(now?.tokens)}>
        <span style={{ width: `${100 * share}%` }} />
      </div>
    </section>
  );
}

function doing(now: Now): string {
  if (now.tokens) {
    return [plural(now.tokens, 'token'), rate(now.tokens_per_s)].filter(Boolean).join(', ');
  }
  const layers = now.layers ? `, layer ${now.layer} of ${now.layers}` : '';
  return `reading ${plural(now.prompt, 'token')}${layers}`;
}
