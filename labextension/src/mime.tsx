// Draws results and comparisons from the data in the notebook: without a kernel, and in notebooks that are not trusted.

import { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';

import { ComparisonView } from './outputs/comparison';
import { MIME, OutputData } from './outputs/data';
import { ResultView } from './outputs/result';

class Output extends ReactWidget implements IRenderMime.IRenderer {
  constructor() {
    super();
    this.addClass('nbkv-lab-rendered');
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    this._data = model.data[MIME] as unknown as OutputData;
    this.update();
    await this.renderPromise;
  }

  protected override render(): React.JSX.Element | null {
    const data = this._data;
    return data && (data.kind === 'result' ? <ResultView data={data} /> : <ComparisonView data={data} />);
  }

  private _data: OutputData | null = null;
}

const extension: IRenderMime.IExtension = {
  id: 'nbkv-lab:outputs',
  description: 'Results of nbkv with their token map.',
  // before the HTML, which is for pages without this extension
  rendererFactory: { safe: true, mimeTypes: [MIME], createRenderer: () => new Output() },
  rank: 40,
  dataType: 'json'
};

export default extension;
