// A prompt as a picture with one cell a token, and what its colours mean.

import * as React from 'react';

import { LINE, MEANING, Outline, totals } from '../tokens';
import { count, plural, share } from '../units';

export function Strip({ outline }: { outline: Outline }): React.JSX.Element | null {
  const parts = totals(outline).map(([letter, tokens]) => `${count(tokens)} ${MEANING[letter]}`);
  const told = `${plural(outline.tokens, 'prompt token')} from first to last: ${parts.join(', ')}`;
  return outline.picture.startsWith('data:image/png;base64,') ? (
    <div className="nbkv-lab-strip">
      <img alt={told} title={told} src={outline.picture} style={{ height: outline.height }} />
    </div>
  ) : null;
}

interface LegendProps {
  outline: Outline;
  picked?: string;
  onPick?: (letter: string) => void;
}

/** Sources with their letter, meaning and number of tokens; as buttons where one can be picked out. */
export function Legend({ outline, picked, onPick }: LegendProps): React.JSX.Element {
  const n = Math.max(1, outline.tokens);
  const entries = totals(outline).map(([letter, tokens]) => {
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
  return (
    <div className="nbkv-lab-legend">
      {entries}
      {outline.tokens > LINE && <span className="nbkv-lab-dim">one cell a token, {LINE} a line</span>}
    </div>
  );
}
