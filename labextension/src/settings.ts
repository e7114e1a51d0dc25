// What a user can set, and whoever is to follow it.

import { ISettingRegistry } from '@jupyterlab/settingregistry';

export interface Wishes {
  refresh: number;
  showStatus: boolean;
}

export async function followSettings(registry: ISettingRegistry, plugin: string, apply: (wishes: Wishes) => void): Promise<void> {
  const settings = await registry.load(plugin);
  const read = (): void => {
    apply({ refresh: settings.composite.refresh as number, showStatus: settings.composite.showStatus as boolean });
  };
  settings.changed.connect(read);
  read();
}
