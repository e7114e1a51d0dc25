// %%kv cells hold a prompt, not Python: their first line and the {{ names }} are coloured, the rest is plain text.

import { RangeSetBuilder } from '@codemirror/state';
import { Decoration, DecorationSet, EditorView, ViewPlugin, ViewUpdate } from '@codemirror/view';
import { JupyterFrontEnd, JupyterFrontEndPlugin } from '@jupyterlab/application';
import { EditorExtensionRegistry, IEditorExtensionRegistry } from '@jupyterlab/codemirror';

const FIRST = /^%%kv\w+/;
const OPTION = /(?<=\s)--?[a-z][\w-]*/g;
const NAME = /\\?\{\{\s*[^\W\d]\w*\s*\}\}/g;

const magic = Decoration.mark({ class: 'nbkv-lab-magic' });
const option = Decoration.mark({ class: 'nbkv-lab-option' });
const name = Decoration.mark({ class: 'nbkv-lab-name' });
const prose = Decoration.line({ class: 'nbkv-lab-prose' });

/** Decorations have to be added in the order in which they begin. */
export function decorations(view: EditorView): DecorationSet {
  const builder = new RangeSetBuilder<Decoration>();
  const { doc } = view.state;
  const head = FIRST.exec(doc.line(1).text);
  if (head) {
    builder.add(0, 0, prose);
    builder.add(0, head[0].length, magic);
    const found = [...matches(OPTION, doc.line(1).text, option), ...matches(NAME, doc.line(1).text, name)];
    found.sort((a, b) => a.from - b.from).forEach(each => { builder.add(each.from, each.to, each.mark); });
    for (let number = 2; number <= doc.lines; number++) {
      const line = doc.line(number);
      builder.add(line.from, line.from, prose);
      matches(NAME, line.text, name).forEach(each => { builder.add(line.from + each.from, line.from + each.to, each.mark); });
    }
  }
  return builder.finish();
}

/** An escaped one, `\{{ … }}`, is plain text. */
function matches(pattern: RegExp, text: string, mark: Decoration): { from: number; to: number; mark: Decoration }[] {
  return [...text.matchAll(pattern)]
    .filter(match => !match[0].startsWith('\\'))
    .map(match => ({ from: match.index, to: match.index + match[0].length, mark }));
}

const plugin = ViewPlugin.fromClass(
  class {
    decorations: DecorationSet;

    constructor(view: EditorView) {
      this.decorations = decorations(view);
    }

    update(update: ViewUpdate): void {
      if (update.docChanged) {
        this.decorations = decorations(update.view);
      }
    }
  },
  { decorations: value => value.decorations }
);

export const highlight: JupyterFrontEndPlugin<void> = {
  id: 'nbkv-lab:highlight',
  description: 'Colours of %%kv cells.',
  autoStart: true,
  requires: [IEditorExtensionRegistry],
  activate: (_: JupyterFrontEnd, registry: IEditorExtensionRegistry): void => {
    registry.addExtension({ name: 'nbkv-lab:highlight', factory: () => EditorExtensionRegistry.createImmutableExtension(plugin) });
  }
};
