// Fidelity against computed share: numbered points, named below, so that names cannot cover each other.

import * as React from 'react';

import { Row } from './data';

const FLOOR = 1e-6; // below is arithmetic noise
const [WIDTH, HEIGHT, LEFT, BOTTOM, EDGE] = [320, 186, 46, 140, 18];

interface Point {
  x: number;
  y: number;
  numbers: number[];
  told: string[];
}

export function Scatter({ rows }: { rows: Row[] }): React.JSX.Element | null {
  const measured = rows.flatMap((row, i) => (row.kl === null ? [] : [{ ...row, kl: row.kl, number: i + 1 }]));
  if (!measured.length) {
    return null;
  }
  const high = Math.max(0, Math.ceil(Math.log10(Math.max(FLOOR, ...measured.map(row => row.kl)))));
  const widest = Math.max(1, ...measured.map(row => row.computed));
  const x = (share: number): number => LEFT + EDGE + ((WIDTH - LEFT - 2 * EDGE) * share) / widest;
  const y = (kl: number): number => BOTTOM - EDGE - ((BOTTOM - 2 * EDGE) * (Math.log10(Math.max(kl, FLOOR)) + 6)) / (high + 6);
  const points: Point[] = [];
  for (const row of measured) {
    const at = { x: x(row.computed), y: y(row.kl) };
    const near = points.find(point => Math.hypot(point.x - at.x, point.y - at.y) < 14);
    const point = near ?? { ...at, numbers: [], told: [] };
    point.numbers.push(row.number);
    point.told.push(`${row.strategy}: ${row.told}`);
    if (!near) {
      points.push(point);
    }
  }
  return (
    <figure className="nbkv-lab-scatter">
      <figcaption>KL to full (nats) against computed share</figcaption>
      <svg role="img" aria-label={points.flatMap(point => point.told).join('; ')} viewBox={`0 0 ${WIDTH} ${HEIGHT}`}>
        <path className="nbkv-lab-axis" d={`M${LEFT} 0V${BOTTOM}H${WIDTH}`} />
        {[FLOOR, 1e-3, 1].map(kl => (
          <text key={kl} x={LEFT - 6} y={y(kl) + 4} textAnchor="end">
            {kl === FLOOR ? '≤1e-6' : kl}
          </text>
        ))}
        {[0, 0.5, 1].map(share => (
          <text key={share} x={x(share)} y={BOTTOM + 16} textAnchor={x(share) > WIDTH - 20 ? 'end' : 'middle'}>
            {100 * share} %
          </text>
        ))}
        <text x={LEFT + 6} y={11}>
          KL to full (nats)
        </text>
        <text x={(LEFT + WIDTH) / 2} y={BOTTOM + 34} textAnchor="middle">
          computed share
        </text>
        {points.map(point => (
          <g key={point.numbers[0]}>
            <title>{point.told.join('\n')}</title>
            <circle cx={point.x} cy={point.y} r={5} />
            <text x={point.x} y={point.y - 9} textAnchor="middle">
              {point.numbers.join(', ')}
            </text>
          </g>
        ))}
      </svg>
      <ol>
        {rows.map(row => (
          <li key={row.strategy} className="nbkv-lab-cut" title={`${row.strategy}: ${row.told}`}>
            {row.strategy}
          </li>
        ))}
      </ol>
    </figure>
  );
}
