// Which session of the current notebook is shown: the one picked by hand, else the one that was last asked.

import { ISignal, Signal } from '@lumino/signaling';

import { Link } from './link';
import { Links } from './links';
import { ProcessWork, Session } from './protocol';

export class Choice {
  constructor(readonly links: Links) {
    links.changed.connect(() => {
      this._changed.emit();
    });
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get link(): Link | null {
    return this.links.current;
  }

  get session(): Session | null {
    const { link } = this;
    const sessions = link?.state?.sessions ?? [];
    const wanted = link ? (this._picked.get(link) ?? link.state?.active) : undefined;
    return sessions.find(each => each.id === wanted) ?? sessions.at(-1) ?? null;
  }

  /** Whether a request or long work of the shown session runs. */
  get running(): boolean {
    return this.link?.status === 'busy' && Boolean(this.session?.now ?? this.session?.work);
  }

  /** What the kernel does beside its sessions. */
  get works(): ProcessWork[] {
    return this.link?.status === 'busy' ? (this.link.state?.works ?? []) : [];
  }

  pick(session: Session): void {
    if (this.link) {
      this._picked.set(this.link, session.id);
      this._changed.emit();
    }
  }

  private _picked = new WeakMap<Link, number>();
  private _changed = new Signal<this, void>(this);
}
