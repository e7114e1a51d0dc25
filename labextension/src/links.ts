// The kernels of all open notebooks, and the one in front.

import { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import { Kernel } from '@jupyterlab/services';
import { ISignal, Signal } from '@lumino/signaling';

import { Link } from './link';

export class Links {
  constructor(private tracker: INotebookTracker) {
    tracker.forEach(panel => {
      this.follow(panel);
    });
    tracker.widgetAdded.connect((_, panel) => {
      this.follow(panel);
    });
    tracker.currentChanged.connect(() => {
      this._changed.emit();
    });
  }

  /** Emitted whenever what `current` says may have changed. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get notebook(): NotebookPanel | null {
    return this.tracker.currentWidget;
  }

  get current(): Link | null {
    const kernel = this.notebook?.sessionContext.session?.kernel;
    return kernel ? (this._links.get(kernel.id) ?? null) : null;
  }

  private follow(panel: NotebookPanel): void {
    const context = panel.sessionContext;
    this.attach(context.session?.kernel);
    context.kernelChanged.connect((_, change) => {
      this.attach(change.newValue);
      this._changed.emit();
    });
  }

  /** Of several connections to one kernel only the first handles comms; the others are left alone. */
  private attach(kernel: Kernel.IKernelConnection | null | undefined): void {
    if (!kernel?.handleComms || this._links.get(kernel.id)?.kernel === kernel) {
      return;
    }
    const link = new Link(kernel);
    this._links.set(kernel.id, link);
    link.changed.connect(() => {
      this._changed.emit();
    });
    kernel.disposed.connect(() => {
      if (this._links.get(kernel.id) === link) {
        this._links.delete(kernel.id);
      }
      this._changed.emit();
    });
  }

  private _links = new Map<string, Link>();
  private _changed = new Signal<this, void>(this);
}
