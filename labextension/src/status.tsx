// The item in the status bar.

import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';

import { Choice } from './choice';
import { rate, share } from './units';

export class Status extends ReactWidget {
  constructor(
    private choice: Choice,
    private onOpen: () => void
  ) {
    super();
    this.addClass('nbkv-lab-status-item');
    choice.changed.connect(this.refresh, this);
  }

  protected override render(): React.JSX.Element | null {
    const { session, running } = this.choice;
    if (!session) {
      return null;
    }
    const speed = running && session.now ? rate(session.now.tokens_per_s) : '';
    return (
      <button
        className="nbkv-lab-status"
        title={`nbkv: ${session.name}, ${session.strategy}. Hit rate ${share(session.hit_rate)}. Click to open the panel.`}
        onClick={this.onOpen}
      >
        KV{session.hit_rate !== null && ` ${share(session.hit_rate)}`}
        {speed && ` · ${speed}`}
      </button>
    );
  }

  private refresh(): void {
    const now = performance.now();
    if (now - this._drawn > 250 || !this.choice.running) {
      this._drawn = now;
      this.update();
    }
  }

  private _drawn = 0;
}
