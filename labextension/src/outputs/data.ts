// What an output carries; see nbkv/show/bundle.py.

import { Why } from '../protocol';
import { Outline } from '../tokens';

export const MIME = 'application/vnd.nbkv.result+json';

export interface MapData extends Outline {
  /** The prompt's text, packed. */
  text?: string;
}

export interface AnswerData {
  text: string;
  /** The text's Markdown as HTML, where it has any. */
  html: string;
}

export interface Ttft {
  seconds: number;
  told: string;
  parts: [name: string, seconds: number, told: string][];
}

/** An answer that is still coming. */
export interface ComingData extends AnswerData {
  kind: 'answer';
}

export interface ResultData extends AnswerData {
  kind: 'result';
  strategy: string;
  honesty: string;
  figures: string[];
  details: string;
  ttft: Ttft;
  notes: string[];
  /** Notes that an earlier answer had as well. */
  old_notes: string[];
  map: MapData;
  why?: Why | null;
}

export interface Row {
  strategy: string;
  cells: string[];
  ttft: Ttft;
  computed: number;
  kl: number | null;
  told: string;
  honesty: string;
  text: string;
  notes: string[];
  map: Outline;
}

export interface ComparisonData {
  kind: 'comparison';
  headline: string;
  columns: string[];
  /** What the columns of fidelity mean; empty where it was not measured. */
  key: string;
  rows: Row[];
}

export type OutputData = ComingData | ResultData | ComparisonData;
