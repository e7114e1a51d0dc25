// What an output or the panel knows of a prompt's tokens; see nbkv/show/columns.py.

/** The picture of a prompt, and what it shows in numbers. */
export interface Outline {
  tokens: number;
  /** Tokens by letter, `P120 R4`. */
  totals: string;
  /** Names of chunks, one a line. */
  chunks: string;
  /** The address of a PNG with one cell a token, and its height. */
  picture: string;
  height: number;
}

/** Tokens a line of the picture. */
export const LINE = 200;

/** The prompt's text, of long prompts with gaps. */
export interface PromptText {
  sources: string;
  chunks: [start: number, stop: number, name: string][];
  dropped: [start: number, stop: number][];
  shown: [start: number, stop: number][];
  pieces: string[];
  deviation: string[];
  /** Whether deviations are one of 1, 2 and 5 times a power of ten. */
  rounded: boolean;
}

/** Neighbouring tokens with the same look. */
export interface Run {
  source: string;
  start: number;
  stop: number;
  chunk: string;
  dropped: boolean;
}

export const MEANING: Record<string, string> = {
  P: 'reused as prefix',
  C: 'reused from a chunk',
  A: 'reused and adjusted',
  R: 'recomputed',
  F: 'fresh',
  D: 'dropped by all layers and heads'
};

export function totals(outline: Outline): [letter: string, tokens: number][] {
  return outline.totals
    .split(' ')
    .filter(Boolean)
    .map(each => [each[0], Number(each.slice(1))]);
}

/** Read what is packed: JSON, deflated, base64. */
export async function unpacked(text: string): Promise<PromptText> {
  const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate'));
  return (await new Response(plain).json()) as PromptText;
}

/** Cut the prompt where source, chunk or dropping change, and at the ends of what is shown. */
export function runs(text: PromptText): Run[] {
  const letters = [...text.sources.matchAll(/([A-Z])(\d*)/g)];
  const edges = [...text.chunks, ...text.dropped, ...text.shown].flatMap(([start, stop]) => [start, stop]);
  const cuts = new Set(edges);
  let at = 0;
  for (const [, , length] of letters) {
    at += Number(length || 1);
    cuts.add(at);
  }
  const sorted = [...cuts].filter(cut => cut > 0 && cut <= at).sort((one, other) => one - other);
  const found: Run[] = [];
  const [chunks, dropped] = [new Walk(text.chunks), new Walk(text.dropped)];
  let [letter, until, start] = [-1, 0, 0];
  for (const stop of sorted) {
    while (until <= start) {
      letter += 1;
      until += Number(letters[letter][2] || 1);
    }
    found.push({ source: letters[letter][1], start, stop, chunk: chunks.over(start)?.[2] ?? '', dropped: dropped.over(start) !== undefined });
    start = stop;
  }
  return found;
}

/** Goes through spans in order and finds the one over each position. */
class Walk<T extends [start: number, stop: number, ...more: unknown[]]> {
  constructor(private spans: T[]) {}

  over(at: number): T | undefined {
    while (this.next < this.spans.length && this.spans[this.next][1] <= at) {
      this.next += 1;
    }
    const span = this.spans[this.next] as T | undefined;
    return span && span[0] <= at ? span : undefined;
  }

  private next = 0;
}

/** What hovering over a token tells. */
export function told(run: Run, at: number, deviation: string, rounded: boolean): string {
  const known = deviation && `deviation ${rounded ? 'about ' : ''}${deviation}`;
  return [`token ${at}`, MEANING[run.source], run.chunk && `chunk ${run.chunk}`, known, run.dropped && MEANING.D].filter(Boolean).join(', ');
}

/** What runs that are left out held. */
export function summed(of: Run[]): string {
  const found = new Map<string, number>();
  for (const run of of) {
    found.set(run.source, (found.get(run.source) ?? 0) + run.stop - run.start);
  }
  const parts = [...found].sort(([, one], [, other]) => other - one);
  return parts.length === 1 ? `all ${MEANING[parts[0][0]]}` : parts.map(([letter, n]) => `${n.toLocaleString('en')} ${MEANING[letter]}`).join(', ');
}
