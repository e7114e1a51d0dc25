// The sessions of a kernel to pick from, where there are several.

import * as React from 'react';

import { Session } from '../protocol';
import { share } from '../units';

interface Props {
  sessions: Session[];
  shown: Session;
  onPick: (session: Session) => void;
}

export function Sessions({ sessions, shown, onPick }: Props): React.JSX.Element | null {
  if (sessions.length < 2) {
    return null;
  }
  return (
    <div className="nbkv-lab-sessions" role="group" aria-label="Sessions">
      {sessions.map(session => (
        <button
          key={session.id}
          aria-pressed={session.id === shown.id}
          title={`${session.name}: ${session.model}, ${session.strategy}`}
          onClick={() => {
            onPick(session);
          }}
        >
          <span className="nbkv-lab-cut">{session.name}</span>
          <span className="nbkv-lab-dim">{share(session.hit_rate)}</span>
        </button>
      ))}
    </div>
  );
}
