// The spans of a token map, read from their columns.

import { MapColumns } from './protocol';

export interface Span {
  /** Where the tokens came from, as a letter. */
  source: string;
  start: number;
  stop: number;
  chunk: string;
  /** Counts by letter, where the span has several sources. */
  mixed: string;
  deviation: string;
  dropped: boolean;
}

export const MEANING: Record<string, string> = {
  P: 'reused as prefix',
  C: 'reused from a chunk',
  A: 'reused and adjusted',
  R: 'recomputed',
  F: 'fresh'
};

export function spans(columns: MapColumns): Span[] {
  const stops = (columns.stops ?? '').split(' ').filter(Boolean).map(Number);
  const chunks = withoutDitto((columns.chunks ?? '').split('\n'));
  const mixed = (columns.mixed ?? '').split('\n');
  const deviation = (columns.deviation ?? '').split(' ');
  return stops.map((stop, i) => ({
    source: columns.sources?.[i] ?? 'F',
    start: i ? stops[i - 1] : 0,
    stop,
    chunk: chunks[i] ?? '',
    mixed: mixed[i] ?? '',
    deviation: deviation[i] === '-' ? '' : (deviation[i] ?? ''),
    dropped: columns.dropped?.[i] === 'D'
  }));
}

/** What hovering over a span tells. */
export function told(span: Span, at?: number): string {
  const [start, stop] = at === undefined ? [span.start, span.stop] : [at, at + 1];
  const one = stop - start === 1;
  return [
    one ? `token ${start}` : `tokens ${start}–${stop - 1}`,
    span.mixed || MEANING[span.source],
    span.chunk && `chunk ${span.chunk}`,
    span.deviation && `deviation ${one && span.stop - span.start === 1 ? '' : 'at most '}${span.deviation}`,
    span.dropped && 'dropped'
  ]
    .filter(Boolean)
    .join(', ');
}

export function totals(of: Span[]): [string, number][] {
  const found = new Map<string, number>();
  for (const span of of) {
    for (const [letter, n] of counts(span)) {
      found.set(letter, (found.get(letter) ?? 0) + n);
    }
  }
  return Object.keys(MEANING)
    .filter(letter => found.has(letter))
    .map(letter => [letter, found.get(letter) ?? 0]);
}

function counts(span: Span): [string, number][] {
  if (!span.mixed) {
    return [[span.source, span.stop - span.start]];
  }
  return span.mixed.split('+').map(part => [part.slice(-1), Number(part.slice(0, -1))]);
}

function withoutDitto(words: string[]): string[] {
  const found: string[] = [];
  for (const word of words) {
    found.push(word === '"' ? found[found.length - 1] : word);
  }
  return found;
}
