// What an output carries; see nbkv/show/bundle.py.

import { MapColumns } from '../protocol';

export const MIME = 'application/vnd.nbkv.result+json';

export interface MapData extends MapColumns {
  tokens: number;
  /** One text a token, or a span where there are many tokens. */
  pieces?: string;
}

export interface Ttft {
  seconds: number;
  told: string;
  parts: [name: string, seconds: number, told: string][];
}

export interface ResultData {
  kind: 'result';
  strategy: string;
  text: string;
  figures: string[];
  details: string;
  ttft: Ttft;
  notes: string[];
  map: MapData;
}

export interface Row {
  strategy: string;
  cells: string[];
  ttft: Ttft;
  computed: number;
  kl: number | null;
  told: string;
  text: string;
  notes: string[];
  map: MapData;
}

export interface ComparisonData {
  kind: 'comparison';
  headline: string;
  columns: string[];
  rows: Row[];
}

export type OutputData = ResultData | ComparisonData;
