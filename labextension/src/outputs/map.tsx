// The prompt's text, coloured by where its KV came from: every token in its own colour, and gaps that say what they are.

import * as React from 'react';

import { Legend, Strip } from '../parts/strip';
import { MEANING, PromptText, Run, runs, summed, told, unpacked } from '../tokens';
import { plural } from '../units';
import { MapData } from './data';

const LABELLED = 12; // tokens in a run that says what it is
const OPEN_BELOW = 160; // tokens

export function TokenMap({ data }: { data: MapData }): React.JSX.Element | null {
  const [picked, pick] = React.useState('');
  const [open, setOpen] = React.useState(data.tokens <= OPEN_BELOW);
  const text = useText(data.text);
  if (!data.tokens) {
    return null;
  }
  const left = text ? data.tokens - text.pieces.length : 0;
  return (
    <div className="nbkv-lab-tokens">
      <Strip outline={data} />
      <Legend outline={data} picked={picked} onPick={pick} />
      {text && (
        <details
          open={open}
          onToggle={event => {
            setOpen(event.currentTarget.open);
          }}
        >
          <summary>
            Token map of the prompt ({plural(data.tokens, 'token')}
            {left > 0 && `, ${left.toLocaleString('en')} of them left out`})
          </summary>
          {open && <Text text={text} picked={picked} />}
        </details>
      )}
    </div>
  );
}

function useText(packed: string | undefined): PromptText | null {
  const [text, setText] = React.useState<PromptText | null>(null);
  React.useEffect(() => {
    let wanted = true;
    if (packed) {
      unpacked(packed).then(
        found => {
          if (wanted) {
            setText(found);
          }
        },
        (error: unknown) => {
          console.warn('nbkv: the text of a token map cannot be read', error);
        }
      );
    }
    return () => {
      wanted = false;
    };
  }, [packed]);
  return text;
}

function Text({ text, picked }: { text: PromptText; picked: string }): React.JSX.Element {
  const all = React.useMemo(() => runs(text), [text]);
  const parts: React.JSX.Element[] = [];
  const begins = new Set(text.chunks.map(([start]) => start));
  let [before, offset] = [0, 0];
  const gap = (start: number, stop: number): void => {
    const of = all.filter(run => run.start >= start && run.stop <= stop);
    if (of.length) {
      parts.push(
        <em key={`gap ${start}`} className="nbkv-lab-gap">
          [… {plural(stop - start, 'token')} left out here: {summed(of)} …]{' '}
        </em>
      );
    }
  };
  for (const [start, stop] of text.shown) {
    gap(before, start);
    for (const run of all.filter(each => each.start >= start && each.stop <= stop)) {
      const at = offset + run.start - start;
      const named = begins.has(run.start) || run.start === start;
      parts.push(<Marked key={run.start} run={run} text={text} at={at} named={named} faint={picked !== '' && !matches(run, picked)} />);
    }
    offset += stop - start;
    before = stop;
  }
  gap(before, all[all.length - 1]?.stop ?? 0);
  return (
    <div className="nbkv-lab-map" tabIndex={0} role="group" aria-label="Token map">
      {parts}
    </div>
  );
}

function matches(run: Run, picked: string): boolean {
  return picked === 'D' ? run.dropped : picked === run.source;
}

interface MarkedProps {
  run: Run;
  text: PromptText;
  /** Where the run's pieces begin. */
  at: number;
  named: boolean;
  faint: boolean;
}

function Marked({ run, text, at, named, faint }: MarkedProps): React.JSX.Element {
  const length = run.stop - run.start;
  // within a chunk no letters: they would break words
  const label = [length >= LABELLED && (named || !run.chunk) && run.source, named && run.chunk].filter(Boolean).join(' ');
  return (
    <span className={`nbkv-lab-mark nbkv-lab-${run.source}${run.dropped ? ' nbkv-lab-dropped' : ''}`} data-faint={faint}>
      {label && (
        <b className="nbkv-lab-cut" title={`${MEANING[run.source]} ${run.chunk}`.trim()}>
          {label}
        </b>
      )}
      {text.pieces.slice(at, at + length).map((piece, i) => (
        <span key={i} title={told(run, run.start + i, text.deviation[at + i] ?? '', text.rounded)}>
          {piece}
        </span>
      ))}
    </span>
  );
}
