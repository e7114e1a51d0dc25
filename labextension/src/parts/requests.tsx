// The last requests, each with its token map; one opens for its figures.

import * as React from 'react';

import { Past } from '../protocol';
import { count, plural, rate, seconds, share } from '../units';
import { Legend, Strip } from './strip';

const ENDS: Record<string, string> = { stop: 'stopped by itself', length: 'cut at the length limit', interrupted: 'interrupted' };

export function Requests({ recent }: { recent: Past[] }): React.JSX.Element | null {
  if (!recent.length) {
    return null;
  }
  return (
    <section aria-label="Last requests">
      <h3>Last requests</h3>
      {recent.map(past => (
        <Request key={past.request} past={past} />
      ))}
    </section>
  );
}

const Request = React.memo(
  ({ past }: { past: Past }): React.JSX.Element => {
    return (
      <details className="nbkv-lab-request">
        <summary>
          <span className="nbkv-lab-pair">
            <span className="nbkv-lab-cut" title={past.strategy}>
              <span className="nbkv-lab-dim">{past.request}</span> {past.strategy}
            </span>
            <span className="nbkv-lab-number">
              {share(past.hit_rate)} <span className="nbkv-lab-dim">in {seconds(past.ttft_s)}</span>
            </span>
          </span>
          <Strip outline={past.map} />
        </summary>
        <Legend outline={past.map} />
        <Chunks names={past.map.chunks.split('\n').filter(Boolean)} />
        <p>
          {[
            plural(past.prompt, 'prompt token'),
            `${share(past.compute_share)} computed`,
            past.honesty,
            `${plural(past.generated, 'token')} generated`,
            past.tpot_s > 0 ? rate(1 / past.tpot_s) : '',
            ENDS[past.finish_reason] ?? past.finish_reason
          ]
            .filter(Boolean)
            .join(' · ')}
        </p>
      </details>
    );
  },
  (before, after) => before.past.request === after.past.request && before.past.strategy === after.past.strategy
);
Request.displayName = 'Request';

function Chunks({ names }: { names: string[] }): React.JSX.Element | null {
  return names.length ? (
    <ul className="nbkv-lab-chunks">
      <li className="nbkv-lab-dim">{names.length === 1 ? 'Chunk' : `${count(names.length)} chunks`}</li>
      {names.map(name => (
        <li key={name} className="nbkv-lab-cut" title={name}>
          {name}
        </li>
      ))}
    </ul>
  ) : null;
}
