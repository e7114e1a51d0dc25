// TTFT in its parts: one stacked bar a row, all on one scale.

import * as React from 'react';

import { Ttft } from './data';

const ORDER = ['load', 'select', 'compute', 'decode'];

export function Bars({ rows }: { rows: { label: string; ttft: Ttft }[] }): React.JSX.Element {
  const longest = Math.max(1e-9, ...rows.map(row => row.ttft.seconds));
  const used = new Set(rows.flatMap(row => row.ttft.parts.map(([name]) => name)));
  return (
    <figure className="nbkv-lab-bars">
      <figcaption>Time to first token</figcaption>
      {rows.map(({ label, ttft }) => (
        <div key={label} className="nbkv-lab-row">
          {label && (
            <span className="nbkv-lab-cut" title={label}>
              {label}
            </span>
          )}
          <span className="nbkv-lab-stack">
            {ttft.parts.map(([name, value, told]) => (
              <span
                key={name}
                className={`nbkv-lab-part nbkv-lab-part-${name}`}
                style={{ width: `${(100 * value) / longest}%` }}
                title={`${label} ${name} ${told}`.trim()}
              />
            ))}
          </span>
          <span className="nbkv-lab-number">{ttft.told}</span>
        </div>
      ))}
      <div className="nbkv-lab-legend">
        {ORDER.filter(name => used.has(name)).map(name => (
          <span key={name}>
            <b className={`nbkv-lab-chip nbkv-lab-part-${name}`} /> {name}
          </span>
        ))}
      </div>
    </figure>
  );
}
