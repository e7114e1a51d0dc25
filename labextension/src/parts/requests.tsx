// The last requests, each with its token map; one opens for its figures.

import * as React from 'react';

import { Past } from '../protocol';
import { count, plural, rate, seconds, share } from '../units';
import { Causes } from './causes';
import { Legend, Strip } from './strip';

const ENDS: Record<string, string> = { stop: 'stopped by itself', length: 'cut at the length limit', interrupted: 'interrupted' };

interface Props {
  recent: Past[];
  onOpen: (request: number) => void;
}

export function Requests({ recent, onOpen }: Props): React.JSX.Element | null {
  if (!recent.length) {
    return null;
  }
  return (
    <section aria-label="Last requests">
      <h3>Last requests</h3>
      {recent.map(past => (
        <Request key={past.request} past={past} onOpen={onOpen} />
      ))}
    </section>
  );
}

const Request = React.memo(
  ({ past, onOpen }: { past: Past; onOpen: (request: number) => void }): React.JSX.Element => {
    return (
      <details
        className="nbkv-lab-request"
        onToggle={event => {
          if (event.currentTarget.open && past.why === undefined) {
            onOpen(past.request);
          }
        }}
      >
        <summary>
          <span className="nbkv-lab-pair">
            <span className="nbkv-lab-cut" title={past.strategy}>
              <span className="nbkv-lab-dim">{past.request}</span> {past.strategy}
            </span>
            <span className="nbkv-lab-number">
              {share(past.hit_rate)} <span className="nbkv-lab-dim">reused, {seconds(past.ttft_s)}</span>
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
        {past.why && (
          <section aria-label="Why tokens ran">
            <p>{past.why.headline}</p>
            <Causes why={past.why} />
          </section>
        )}
      </details>
    );
  },
  (before, after) =>
    before.past.request === after.past.request &&
    before.past.strategy === after.past.strategy &&
    Boolean(before.past.why) === Boolean(after.past.why)
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
