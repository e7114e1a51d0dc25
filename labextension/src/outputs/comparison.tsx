// A comparison: its table with each strategy's map, two plots, and the answers where they differ.

import * as React from 'react';

import { Legend, Strip } from '../parts/strip';
import { Badge } from './answer';
import { Bars } from './bars';
import { ComparisonData, Row } from './data';
import { Notes } from './result';
import { Scatter } from './scatter';

export function ComparisonView({ data }: { data: ComparisonData }): React.JSX.Element {
  const { rows } = data;
  return (
    <div className="nbkv-lab-output">
      <p>{data.headline}</p>
      <div className="nbkv-lab-scroll">
        <table>
          <thead>
            <tr>
              <th scope="col">strategy</th>
              {data.columns.map(column => (
                <th key={column} scope="col">
                  {column}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map(row => (
              <tr key={row.strategy}>
                <th scope="row">{row.strategy}</th>
                {row.cells.map((cell, i) => (
                  <td key={data.columns[i]} data-name={data.columns[i]}>
                    {cell}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {data.key && <p className="nbkv-lab-dim">{data.key}</p>}
      <div className="nbkv-lab-plots">
        <Bars rows={rows.map(row => ({ label: row.strategy, ttft: row.ttft }))} />
        <Scatter rows={rows} />
      </div>
      <Maps rows={rows} />
      <Answers rows={rows} />
      <Notes notes={notes(rows)} />
    </div>
  );
}

function Maps({ rows }: { rows: Row[] }): React.JSX.Element {
  return (
    <details>
      <summary>Where each took the prompt from</summary>
      {rows.map(row => (
        <div key={row.strategy} className="nbkv-lab-own">
          <b>{row.strategy}</b>
          <Strip outline={row.map} />
          <Legend outline={row.map} />
        </div>
      ))}
    </details>
  );
}

function Answers({ rows }: { rows: Row[] }): React.JSX.Element {
  const texts = [...new Set(rows.map(row => row.text))];
  return (
    <details>
      <summary>{texts.length === 1 ? 'The answer, the same from all' : `${texts.length} different answers`}</summary>
      {texts.map(text => (
        <React.Fragment key={text}>
          <p>
            {rows
              .filter(row => row.text === text)
              .map(row => (
                <span key={row.strategy} className="nbkv-lab-named">
                  <b>{row.strategy}</b> <Badge words={row.honesty} />
                </span>
              ))}
          </p>
          <div className="nbkv-lab-answer">{text}</div>
        </React.Fragment>
      ))}
    </details>
  );
}

/** Each note once, with the strategies it belongs to unless it belongs to all. */
function notes(rows: Row[]): string[] {
  const all = [...new Set(rows.flatMap(row => row.notes))];
  return all.map(note => {
    const names = rows.filter(row => row.notes.includes(note)).map(row => row.strategy);
    return names.length === rows.length ? note : `${names.join(', ')}: ${note}`;
  });
}
