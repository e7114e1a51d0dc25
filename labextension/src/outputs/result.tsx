// A result: the answer, how far it can be trusted, one line of figures, the token map.

import * as React from 'react';

import { Answer, Badge } from './answer';
import { Bars } from './bars';
import { ResultData } from './data';
import { TokenMap } from './map';
import { Causes } from '../parts/causes';

export function ResultView({ data }: { data: ResultData }): React.JSX.Element {
  const old = data.old_notes;
  return (
    <div className="nbkv-lab-output">
      <Answer data={data} />
      <p>
        <Badge words={data.honesty} /> <b>{data.strategy}</b> · {data.figures.join(' · ')}
      </p>
      <TokenMap data={data.map} />
      {data.why && (
        <details>
          <summary>{data.why.headline}</summary>
          <Causes why={data.why} />
        </details>
      )}
      <Notes notes={data.notes} />
      <details>
        <summary>Timing, memory{old.length ? `, model and ${old.length === 1 ? '1 note' : `${old.length} notes`} as before` : ' and model'}</summary>
        <Bars rows={[{ label: '', ttft: data.ttft }]} />
        <p>{data.details}</p>
        <Notes notes={old} />
      </details>
    </div>
  );
}

export function Notes({ notes }: { notes: string[] }): React.JSX.Element | null {
  return notes.length ? (
    <ul className="nbkv-lab-dim">
      {notes.map(note => (
        <li key={note}>{note}</li>
      ))}
    </ul>
  ) : null;
}
