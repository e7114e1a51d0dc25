// Commands of the palette and the toolbar.

import { JupyterFrontEnd } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { CommandRegistry } from '@lumino/commands';

import { Choice } from './choice';
import { icon } from './icon';

export const SHOW = 'nbkv:show-panel';
export const STOP = 'nbkv:stop';
export const CLEAR = 'nbkv:clear';

const NO_ARGUMENTS = { args: { type: 'object', properties: {} } } as const;

export function addCommands(app: JupyterFrontEnd, choice: Choice, panelId: string, palette: ICommandPalette | null): void {
  const add = (id: string, options: CommandRegistry.ICommandOptions): void => {
    app.commands.addCommand(id, { ...options, describedBy: NO_ARGUMENTS });
    palette?.addItem({ command: id, category: 'nbkv' });
  };
  add(SHOW, {
    label: 'Show the KV Panel',
    caption: 'Show what the sessions of this notebook reuse',
    icon,
    execute: () => {
      app.shell.activateById(panelId);
    }
  });
  add(STOP, {
    label: 'Stop Generating',
    caption: 'End the request under way and keep what was generated',
    isEnabled: () => choice.running,
    execute: () => choice.session && choice.link?.stop(choice.session)
  });
  add(CLEAR, {
    label: 'Clear Stored KV',
    caption: 'Forget all stored KV of the session shown in the panel',
    isEnabled: () => Boolean(choice.session),
    execute: () => choice.session && choice.link?.clear(choice.session)
  });
}
