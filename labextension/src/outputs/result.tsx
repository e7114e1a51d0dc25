// A result: the answer, one line of figures, the token map.

import * as React from 'react';

import { Bars } from './bars';
import { ResultData } from './data';
import { TokenMap } from './map';

const OPEN_BELOW = 160; // tokens

export function ResultView({ data }: { data: ResultData }): React.JSX.Element {
  return (
    <div className="nbkv-lab-output">
      <pre>{data.text}</pre>
      <p>
        <b>{data.strategy}</b> · {data.figures.join(' · ')}
      </p>
      <TokenMap data={data.map} open={data.map.tokens <= OPEN_BELOW} />
      <details>
        <summary>Timing, memory and model</summary>
        <Bars rows={[{ label: '', ttft: data.ttft }]} />
        <p>{data.details}</p>
      </details>
      <Notes notes={data.notes} />
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
