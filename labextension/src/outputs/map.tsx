// The prompt's text, coloured by where its KV came from.

import * as React from 'react';

import { Legend, Strip } from '../parts/strip';
import { Span, spans, told } from '../spans';
import { plural } from '../units';
import { MapData } from './data';

const APART = '\x1f';
const LABELLED = 12; // tokens in a span that says what it is

export function TokenMap({ data, open }: { data: MapData; open: boolean }): React.JSX.Element | null {
  const [picked, pick] = React.useState('');
  const found = spans(data);
  if (!data.tokens) {
    return null;
  }
  return (
    <div className="nbkv-lab-tokens" data-picked={picked || undefined}>
      <Strip spans={found} />
      <Legend spans={found} picked={picked} onPick={pick} />
      {data.pieces !== undefined && (
        <details open={open}>
          <summary>Token map of the prompt ({plural(data.tokens, 'token')})</summary>
          <div className="nbkv-lab-map" tabIndex={0} role="group" aria-label="Token map">
            {texts(data, found).map((text, i) => (
              <Marked key={found[i].start} span={found[i]} pieces={text} picked={picked} />
            ))}
          </div>
        </details>
      )}
    </div>
  );
}

function texts(data: MapData, of: Span[]): string[][] {
  const pieces = (data.pieces ?? '').split(APART);
  const one = pieces.length === data.tokens;
  return of.map((span, i) => (one ? pieces.slice(span.start, span.stop) : [pieces[i] ?? '']));
}

function Marked({ span, pieces, picked }: { span: Span; pieces: string[]; picked: string }): React.JSX.Element {
  const classes = ['nbkv-lab-mark', `nbkv-lab-${span.source}`, span.dropped && 'nbkv-lab-dropped', span.mixed && 'nbkv-lab-mixed'];
  const one = pieces.length === span.stop - span.start;
  return (
    <span className={classes.filter(Boolean).join(' ')} data-faint={picked !== '' && picked !== span.source}>
      {span.stop - span.start >= LABELLED && (
        <b className="nbkv-lab-cut" title={span.chunk}>
          {span.source} {span.chunk}
        </b>
      )}
      {pieces.map((piece, i) => (
        <span key={i} title={told(span, one ? span.start + i : undefined)}>
          {visible(piece)}
        </span>
      ))}
    </span>
  );
}

function visible(text: string): string {
  return text.replace(/\n/g, '↵\n').replace(/\ufffd/g, '·');
}
