// What the kernel says over the comm: always the whole state, so that a lost message does not matter.

import { Outline } from './tokens';

export interface Tier {
  tier: string;
  entries: number;
  tokens: number;
  bytes: number;
  limit: number;
  hits: number;
  misses: number;
  evictions: number;
}

export interface Past {
  request: number;
  strategy: string;
  prompt: number;
  reused: number;
  recomputed: number;
  fresh: number;
  hit_rate: number;
  compute_share: number;
  ttft_s: number;
  tpot_s: number;
  total_s: number;
  generated: number;
  finish_reason: string;
  kl: number | null;
  top1: number | null;
  honesty: string;
  map: Outline;
  /** Why tokens ran; asked for when the request is opened. */
  why?: Why | null;
}

/** The causes in words: see nbkv/show/why.py. */
export interface Why {
  headline: string;
  /** Cause, tokens, where, would save, what happened, what helps. */
  rows: [string, string, string, string, string, string][];
  texts: [was: string, now: string][];
}

export interface Now {
  request: number;
  strategy: string;
  prompt: number;
  layer: number;
  layers: number;
  tokens: number;
  tokens_per_s: number;
}

/** Long work of many steps, such as a comparison. */
export interface Work {
  work: string;
  doing: string;
  done: number;
  total: number;
}

/** Long work that no session does: loading a model, a sweep of notebooks. */
export interface ProcessWork extends Work {
  id: number;
  stopping: boolean;
}

export interface Session {
  id: number;
  name: string;
  model: string;
  strategy: string;
  requests: number;
  hit_rate: number | null;
  fallbacks: number;
  ttft_s: number[];
  tiers: Tier[];
  recent: Past[];
  now: Now | null;
  said: string[];
  work: Work | null;
  stopping: boolean;
  clearing: boolean;
}

export interface State {
  nbkv: number;
  active: number;
  sessions: Session[];
  works?: ProcessWork[];
}

export type Order = { event: 'sync' } | { event: 'stop' | 'clear'; session: number } | { event: 'stop'; work: number } | { event: 'why'; session: number; request: number };

export const TARGET = 'nbkv';
export const CONTROL = 'nbkv.ctl';

export function isState(data: unknown): data is State {
  return typeof data === 'object' && data !== null && (data as State).nbkv === 1 && Array.isArray((data as State).sessions);
}
