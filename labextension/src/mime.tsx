// Draws results and comparisons from the data in the notebook: without a kernel, and in notebooks that are not trusted.

import { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';

import { Answer, Sanitizer } from './outputs/answer';
import { ComparisonView } from './outputs/comparison';
import { MIME, OutputData } from './outputs/data';
import { ResultView } from './outputs/result';

const PICTURE = /src="(data:image\/png;base64,[\w+/=]+)"/;

class Output extends ReactWidget implements IRenderMime.IRenderer {
  constructor(private sanitizer: IRenderMime.ISanitizer) {
    super();
    this.addClass('nbkv-lab-rendered');
  }

  async renderModel(model: IRenderMime.IMimeModel): Promise<void> {
    this._data = model.data[MIME] as unknown as OutputData;
    if (this._data.kind === 'result') {
      // the picture stands in the HTML beside, and notebooks stay small
      const html = model.data['text/html'];
      const picture = typeof html === 'string' ? (PICTURE.exec(html)?.[1] ?? '') : '';
      this._data = { ...this._data, map: { ...this._data.map, picture } };
    }
    this.update();
    await this.renderPromise;
  }

  protected override render(): React.JSX.Element | null {
    const data = this._data;
    return data && <Sanitizer.Provider value={this.sanitizer}>{drawn(data)}</Sanitizer.Provider>;
  }

  private _data: OutputData | null = null;
}

function drawn(data: OutputData): React.JSX.Element {
  switch (data.kind) {
    case 'answer':
      return (
        <div className="nbkv-lab-output">
          <Answer data={data} />
        </div>
      );
    case 'result':
      return <ResultView data={data} />;
    case 'comparison':
      return <ComparisonView data={data} />;
  }
}

const extension: IRenderMime.IExtension = {
  id: 'nbkv-lab:outputs',
  description: 'Results of nbkv with their token map.',
  // before the HTML, which is for pages without this extension
  rendererFactory: { safe: true, mimeTypes: [MIME], createRenderer: options => new Output(options.sanitizer) },
  rank: 40,
  dataType: 'json'
};

export default extension;
