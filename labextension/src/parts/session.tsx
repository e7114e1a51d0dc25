// One session: who it is, its figures, what it does, what it holds, what it did.

import * as React from 'react';

import { Session } from '../protocol';
import { count, plural, seconds, share } from '../units';
import { Running } from './now';
import { Requests } from './requests';
import { Sparkline } from './sparkline';
import { Tiers } from './tiers';

interface Props {
  session: Session;
  running: boolean;
  onStop: () => void;
  onClear: () => void;
  /** A past request is looked at. */
  onOpen: (request: number) => void;
}

export function SessionView({ session, running, onStop, onClear, onOpen }: Props): React.JSX.Element {
  const last = session.ttft_s[session.ttft_s.length - 1];
  return (
    <>
      <section className="nbkv-lab-title" aria-label="Session">
        <h2 className="nbkv-lab-cut" title={session.name}>
          {session.name}
        </h2>
        <div className="nbkv-lab-cut nbkv-lab-dim" title={`${session.model}, ${session.strategy}`}>
          {session.model} · {session.strategy}
        </div>
      </section>
      <dl className="nbkv-lab-figures">
        <Figure name="Hit rate" title="Reused tokens of all prompt tokens" value={share(session.hit_rate)} />
        <Figure name="TTFT" title="Time to first token of the last request" value={seconds(last)} />
        <Figure name="Requests" title={plural(session.fallbacks, 'fallback')} value={count(session.requests)} />
      </dl>
      <Running now={running ? session.now : null} work={running ? session.work : null} stopping={session.stopping} />
      {session.said.map(line => (
        <div key={line} className="nbkv-lab-dim" role="status">
          {line}
        </div>
      ))}
      <div className="nbkv-lab-buttons">
        <button className="jp-Button" disabled={!running} title="End what runs; what there is of it is kept" onClick={onStop}>
          Stop
        </button>
        <button
          className="jp-Button"
          disabled={session.clearing}
          title="Forget all stored KV of this session; waits for a running cell to end"
          onClick={onClear}
        >
          {session.clearing ? 'Clears…' : 'Clear'}
        </button>
      </div>
      <Sparkline values={session.ttft_s} />
      <Tiers tiers={session.tiers} />
      <Requests recent={session.recent} onOpen={onOpen} />
    </>
  );
}

function Figure({ name, title, value }: { name: string; title: string; value: string }): React.JSX.Element {
  return (
    <div title={title}>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}
