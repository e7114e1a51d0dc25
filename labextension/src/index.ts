// The plugins: the panel with what belongs to it, and the colours of %%kv cells.

import { ILayoutRestorer, JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';

import { Choice } from './choice';
import { addCommands, CLEAR, SHOW, STOP } from './commands';
import { highlight } from './highlight';
import { Links } from './links';
import { Panel } from './panel';
import { ProcessWork } from './protocol';
import { followSettings } from './settings';
import { Status } from './status';

const panel: JupyterFrontEndPlugin<void> = {
  id: 'nbkv-lab:plugin',
  description: 'A panel on the reuse of KV in the sessions of a notebook.',
  autoStart: true,
  requires: [INotebookTracker],
  optional: [ICommandPalette, ILayoutRestorer, ISettingRegistry, IStatusBar],
  activate: (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    settings: ISettingRegistry | null,
    statusBar: IStatusBar | null
  ): void => {
    const choice = new Choice(new Links(tracker));
    const run = (command: string) => (): void => {
      void app.commands.execute(command);
    };
    const stopWork = (work: ProcessWork): void => {
      void choice.link?.stopWork(work);
    };
    const shown = new Panel(choice, { stop: run(STOP), clear: run(CLEAR), stopWork });
    const status = new Status(choice, run(SHOW));
    addCommands(app, choice, shown.id, palette);
    app.shell.add(shown, 'right', { rank: 900 });
    restorer?.add(shown, shown.id);
    statusBar?.registerStatusItem('nbkv-lab:status', { item: status, align: 'right', rank: 90 });
    if (settings) {
      void followSettings(settings, panel.id, wishes => {
        shown.pause = wishes.refresh;
        status.setHidden(!wishes.showStatus);
      });
    }
  }
};

export default [panel, highlight];
