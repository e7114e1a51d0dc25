// What a screen reader is told: each request once, when it has ended, and not more often than it can say it.

import * as React from 'react';

import { Session } from '../protocol';
import { seconds, share } from '../units';

const PAUSE = 3000; // milliseconds

export function Spoken({ session }: { session: Session | null }): React.JSX.Element {
  const past = session?.recent[0];
  const words = past ? `Request ${past.request}: ${share(past.hit_rate)} reused, first token after ${seconds(past.ttft_s)}` : '';
  const [said, say] = React.useState('');
  React.useEffect(() => {
    const timer = window.setTimeout(() => {
      say(words);
    }, PAUSE);
    return () => {
      window.clearTimeout(timer);
    };
  }, [words]);
  return (
    <div className="nbkv-lab-spoken" role="status" aria-live="polite">
      {said}
    </div>
  );
}
