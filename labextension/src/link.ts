// One kernel: finds its comm, keeps its last state, and tells it to stop and to clear.

import { Kernel, KernelMessage } from '@jupyterlab/services';
import { IDisposable } from '@lumino/disposable';
import { ISignal, Signal } from '@lumino/signaling';

import { CONTROL, isState, Order, ProcessWork, Session, State, TARGET } from './protocol';

/** Milliseconds after which a kernel that did not hear "stop" is interrupted instead. */
const PATIENCE = 1000;

export class Link implements IDisposable {
  constructor(readonly kernel: Kernel.IKernelConnection) {
    kernel.statusChanged.connect(this.onStatus, this);
    kernel.iopubMessage.connect(this.onIOPub, this);
    kernel.disposed.connect(this.dispose, this);
    kernel.registerCommTarget(TARGET, (comm, opening) => {
      this.adopt(comm, opening.content.data);
    });
    void this.find();
  }

  get state(): State | null {
    return this._state;
  }

  /** The kernel's, but for busy and idle: an order that is heard beside a busy cell leaves JupyterLab's at idle. */
  get status(): Kernel.Status {
    const { status } = this.kernel;
    return this._busy === null || !['busy', 'idle'].includes(status) ? status : this._busy ? 'busy' : 'idle';
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    this._isDisposed = true;
    this.forget();
    Signal.clearData(this);
  }

  async stop(session: Session): Promise<void> {
    const running = underWay(session);
    await this.say({ event: 'stop', session: session.id });
    this.interruptUnless(() => {
      const now = this._state?.sessions.find(each => each.id === session.id);
      return !now || !running || underWay(now) !== running || now.stopping;
    });
  }

  async stopWork(work: ProcessWork): Promise<void> {
    await this.say({ event: 'stop', work: work.id });
    this.interruptUnless(() => {
      const now = this._state?.works?.find(each => each.id === work.id);
      return !now || now.stopping;
    });
  }

  /** Comm messages wait for the cell to end where the kernel has no subshells, or they are switched off. */
  private interruptUnless(heard: () => boolean): void {
    window.setTimeout(() => {
      if (!this._isDisposed && this.status === 'busy' && !heard()) {
        void this.kernel.interrupt();
      }
    }, PATIENCE);
  }

  async clear(session: Session): Promise<void> {
    await this.say({ event: 'clear', session: session.id });
  }

  async why(session: Session, request: number): Promise<void> {
    await this.say({ event: 'why', session: session.id, request });
  }

  /** After a reload of the page the kernel has a comm already; this asks for it, and `onIOPub` sees it speak. */
  private async find(): Promise<void> {
    const reply = await this.kernel.requestCommInfo({ target_name: TARGET });
    if (reply.content.status === 'ok' && !this._isDisposed) {
      Object.keys(reply.content.comms).forEach(id => {
        this.adoptById(id);
      });
    }
  }

  private onIOPub(_: Kernel.IKernelConnection, message: KernelMessage.IIOPubMessage): void {
    if (KernelMessage.isCommMsgMsg(message) && isState(message.content.data)) {
      this.adoptById(message.content.comm_id, message.content.data);
    }
    if (KernelMessage.isStatusMsg(message) && isCell(message.parent_header)) {
      this._busy = message.content.execution_state === 'busy';
      this._changed.emit();
    }
  }

  private adoptById(id: string, data?: unknown): void {
    if (this.kernel.handleComms && !this.kernel.hasComm(id)) {
      this.adopt(this.kernel.createComm(TARGET, id), data);
    }
  }

  private adopt(comm: Kernel.IComm, data: unknown): void {
    comm.onMsg = message => {
      this.receive(message.content.data);
    };
    comm.onClose = () => {
      this.forget();
    };
    this.receive(data);
    void this.say({ event: 'sync' });
  }

  private receive(data: unknown): void {
    if (isState(data)) {
      this._state = data;
      this._changed.emit();
    }
  }

  /** The kernel never publishes on the comm that orders go over: that way they are heard while a cell runs. */
  private async say(order: Order): Promise<void> {
    if (this._control && !this._control.isDisposed) {
      this._control.send(order);
      return;
    }
    const control = this.kernel.createComm(CONTROL);
    this._control = control;
    // not in JupyterLab before 4.4, and not in the interface
    await (control as { subshellStarted?: Promise<void> }).subshellStarted;
    control.open(order);
  }

  private onStatus(_: Kernel.IKernelConnection, status: Kernel.Status): void {
    if (['restarting', 'autorestarting', 'starting', 'dead', 'terminating'].includes(status)) {
      this._busy = null;
      this.forget();
    } else if (this._busy === null && status === 'busy') {
      this._busy = true; // a page that was loaded anew, beside a cell
    }
    this._changed.emit();
  }

  private forget(): void {
    this._control = null;
    this._state = null;
    this._changed.emit();
  }

  private _state: State | null = null;
  private _control: Kernel.IComm | null = null;
  private _busy: boolean | null = null;
  private _isDisposed = false;
  private _changed = new Signal<this, void>(this);
}

/** Whether a message is about a cell, and not about what a subshell was asked beside it. */
function isCell(parent: KernelMessage.IMessage['parent_header']): boolean {
  return 'msg_type' in parent && parent.msg_type === 'execute_request' && !parent.subshell_id;
}

/** What a session does, by a name that another request or work does not have; empty if nothing. */
function underWay({ now, work }: Session): string {
  return now ? `request ${now.request}` : (work?.work ?? '');
}
