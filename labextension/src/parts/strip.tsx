// A prompt as one thin bar, and what its colours mean.

import * as React from 'react';

import { MEANING, Span, told, totals } from '../spans';
import { count, plural, share } from '../units';

export function Strip({ spans }: { spans: Span[] }): React.JSX.Element {
  const n = spans[spans.length - 1]?.stop ?? 0;
  const parts = totals(spans).map(([letter, tokens]) => `${count(tokens)} ${MEANING[letter]}`);
  return (
    <div className="nbkv-lab-strip" role="img" aria-label={`${plural(n, 'prompt token')}: ${parts.join(', ')}`}>
      {spans.map(span => (
        <span
          key={span.start}
          className={`nbkv-lab-fill nbkv-lab-${span.source}`}
          style={{ width: `${(100 * (span.stop - span.start)) / n}%` }}
          title={told(span)}
        />
      ))}
    </div>
  );
}

interface LegendProps {
  spans: Span[];
  picked?: string;
  onPick?: (letter: string) => void;
}

/** Sources with their letter, meaning and number of tokens; as buttons where one can be picked out. */
export function Legend({ spans, picked, onPick }: LegendProps): React.JSX.Element {
  const n = Math.max(1, spans[spans.length - 1]?.stop ?? 0);
  const entries = totals(spans).map(([letter, tokens]) => {
    const chip = <b className={`nbkv-lab-chip nbkv-lab-${letter}`}>{letter}</b>;
    const words = ` ${MEANING[letter]} ${count(tokens)} (${share(tokens / n)})`;
    return onPick ? (
      <button
        key={letter}
        aria-pressed={picked === letter}
        title="Show these alone"
        onClick={() => {
          onPick(picked === letter ? '' : letter);
        }}
      >
        {chip}
        {words}
      </button>
    ) : (
      <span key={letter}>
        {chip}
        {words}
      </span>
    );
  });
  return <div className="nbkv-lab-legend">{entries}</div>;
}
