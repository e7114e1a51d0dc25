// The panel on the right: the notebook in front, and what its kernel's sessions do.

import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';

import { Choice } from './choice';
import { icon } from './icon';
import { Works } from './parts/now';
import { SessionView } from './parts/session';
import { Sessions } from './parts/sessions';
import { Spoken } from './parts/spoken';
import { ProcessWork } from './protocol';

export class Panel extends ReactWidget {
  constructor(
    private choice: Choice,
    private orders: { stop: () => void; clear: () => void; stopWork: (work: ProcessWork) => void }
  ) {
    super();
    this.id = 'nbkv-panel';
    this.addClass('nbkv-lab-panel');
    this.title.icon = icon;
    this.title.caption = 'nbkv: reuse of KV';
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', 'nbkv');
    choice.changed.connect(this.refresh, this);
  }

  /** Milliseconds between two updates. */
  pause = 100;

  protected override render(): React.JSX.Element {
    const { choice } = this;
    const { link, session } = choice;
    const name = choice.links.notebook?.title.label;
    return (
      <>
        <header className="nbkv-lab-pair">
          <span className="nbkv-lab-cut" title={name}>
            {name ?? 'No notebook'}
          </span>
          <span className="nbkv-lab-kernel" data-status={link?.status}>
            {link?.status ?? ''}
          </span>
        </header>
        <Works works={choice.works} onStop={this.orders.stopWork} />
        {link && session ? (
          <>
            <Sessions
              sessions={link.state?.sessions ?? []}
              shown={session}
              onPick={picked => {
                choice.pick(picked);
              }}
            />
            <SessionView
              session={session}
              running={choice.running}
              onStop={this.orders.stop}
              onClear={this.orders.clear}
              onOpen={request => {
                void link.why(session, request);
              }}
            />
          </>
        ) : choice.works.length ? null : (
          <Empty notebook={Boolean(name)} loaded={Boolean(link?.state)} status={link?.status} />
        )}
        <Spoken session={session} />
      </>
    );
  }

  /** Draw at once, or after the pause if the last drawing was just now; the last change is always drawn. */
  private refresh(): void {
    if (this._timer === null) {
      this._timer = window.setTimeout(
        () => {
          this._timer = null;
          this._drawn = performance.now();
          this.update();
        },
        Math.max(0, this._drawn + this.pause - performance.now())
      );
    }
  }

  private _timer: number | null = null;
  private _drawn = -Infinity;
}

function Empty({ notebook, loaded, status }: { notebook: boolean; loaded: boolean; status?: string }): React.JSX.Element {
  if (!notebook) {
    return <p className="nbkv-lab-empty">Open a notebook to see what its sessions reuse.</p>;
  }
  if (status?.includes('starting')) {
    return <p className="nbkv-lab-empty">The kernel is starting.</p>;
  }
  return (
    <div className="nbkv-lab-empty">
      <p>{loaded ? 'No session is open.' : 'nbkv is not in use here.'} Run in a cell:</p>
      <pre>{loaded ? '%kvload tiny' : '%load_ext nbkv\n%kvload tiny'}</pre>
    </div>
  );
}
