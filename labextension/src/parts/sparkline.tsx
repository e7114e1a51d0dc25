// The time to first token of the last requests as a line.

import * as React from 'react';

import { plural, seconds } from '../units';

const WIDTH = 240;
const HEIGHT = 40;
const EDGE = 4;

export function Sparkline({ values }: { values: number[] }): React.JSX.Element | null {
  if (!values.length) {
    return null;
  }
  const top = Math.max(...values);
  const x = (i: number): number => EDGE + ((WIDTH - 2 * EDGE) * (i + (values.length === 1 ? 1 : 0))) / Math.max(1, values.length - 1);
  const y = (value: number): number => HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (top ? value / top : 0);
  const points = values.map((value, i): [number, number] => [x(i), y(value)]);
  const [lastX, lastY] = points[points.length - 1];
  const last = values[values.length - 1];
  const label = `Time to first token of ${plural(values.length, 'request')}: last ${seconds(last)}, longest ${seconds(top)}`;
  return (
    <figure className="nbkv-lab-spark">
      <figcaption>
        <span>TTFT, last {plural(values.length, 'request')}</span>
        <span>up to {seconds(top)}</span>
      </figcaption>
      <svg role="img" aria-label={label} viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none">
        <title>{label}</title>
        <path className="nbkv-lab-ground" d={`M0 ${HEIGHT - EDGE}H${WIDTH}`} />
        {points.length > 1 && <path className="nbkv-lab-line" d={`M${points.map(point => point.join(' ')).join('L')}`} />}
        <path className="nbkv-lab-dot" d={`M${lastX} ${lastY}h0`} />
      </svg>
    </figure>
  );
}
