// An answer: as it was written, or with the Markdown that a chat model wrote drawn. The same while it comes and after.

import { IRenderMime } from '@jupyterlab/rendermime-interfaces';
import * as React from 'react';

import { AnswerData } from './data';

/** What makes HTML of a notebook that may not be trusted harmless. */
export const Sanitizer = React.createContext<IRenderMime.ISanitizer | null>(null);

export function Answer({ data }: { data: AnswerData }): React.JSX.Element {
  const sanitizer = React.useContext(Sanitizer);
  return data.html && sanitizer ? (
    <div className="nbkv-lab-answer nbkv-lab-markdown" dangerouslySetInnerHTML={{ __html: sanitizer.sanitize(data.html) }} />
  ) : (
    <div className="nbkv-lab-answer">{data.text}</div>
  );
}

/** How far an answer can be trusted to be that of full. */
export function Badge({ words }: { words: string }): React.JSX.Element {
  const exact = words.startsWith('exact');
  return (
    <span className="nbkv-lab-badge" data-exact={exact}>
      {exact ? '=' : '≈'} {words}
    </span>
  );
}
