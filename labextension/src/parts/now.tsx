// The request or long work under way, and what runs beside the sessions.

import * as React from 'react';

import { Now, ProcessWork, Work } from '../protocol';
import { count, plural, rate } from '../units';

interface Props {
  now: Now | null;
  work: Work | null;
  stopping: boolean;
}

export function Running({ now, work, stopping }: Props): React.JSX.Element {
  const under = now ?? work;
  return (
    <section className="nbkv-lab-now" aria-label="Under way" data-running={Boolean(under)}>
      <div className="nbkv-lab-pair">
        <span>
          {now ? `Request ${now.request}` : work ? named(work) : 'No request running'}
        </span>
        <span className="nbkv-lab-number">{under ? (stopping ? 'stopping…' : now ? doing(now) : steps(work)) : ''}</span>
      </div>
      <div className="nbkv-lab-bar nbkv-lab-progress" data-busy={Boolean(now?.tokens)}>
        <span style={{ width: `${100 * (now ? read(now) : work ? work.done / Math.max(1, work.total) : 0)}%` }} />
      </div>
    </section>
  );
}

interface WorksProps {
  works: ProcessWork[];
  onStop: (work: ProcessWork) => void;
}

export function Works({ works, onStop }: WorksProps): React.JSX.Element {
  return (
    <>
      {works.map(work => (
        <section key={work.id} className="nbkv-lab-work" aria-label={work.work}>
          <Running now={null} work={work} stopping={work.stopping} />
          <div className="nbkv-lab-buttons">
            <button
              className="jp-Button"
              disabled={work.stopping}
              title={`Stop ${work.work}; what there is of it is kept`}
              aria-label={`Stop ${work.work}`}
              onClick={() => {
                onStop(work);
              }}
            >
              Stop
            </button>
          </div>
        </section>
      ))}
    </>
  );
}

function read(now: Now): number {
  return now.tokens ? 1 : now.layers ? now.layer / now.layers : 0;
}

function doing(now: Now): string {
  if (now.tokens) {
    return [plural(now.tokens, 'token'), rate(now.tokens_per_s)].filter(Boolean).join(', ');
  }
  const layers = now.layers ? `, layer ${now.layer} of ${now.layers}` : '';
  return `reading ${plural(now.prompt, 'token')}${layers}`;
}

function named(work: Work): string {
  return `${work.work}: ${work.doing}`;
}

function steps(work: Work | null): string {
  return work ? `${count(work.done)} of ${count(work.total)}` : '';
}
