// Why tokens ran: one entry a cause and span, what its cure would save, and both texts where text differs.

import * as React from 'react';

import { Why } from '../protocol';

export function Causes({ why }: { why: Why }): React.JSX.Element {
  return (
    <>
      <dl className="nbkv-lab-causes">
        {why.rows.map(([cause, tokens, where, saves, what, helps]) => (
          <React.Fragment key={`${cause} ${where}`}>
            <dt>
              <b>{cause}</b> <span className="nbkv-lab-dim">{`${tokens} tokens, at ${where}`}</span>
              {saves !== '–' && <span>{` · would save ${saves}`}</span>}
            </dt>
            <dd>{[what, helps].filter(Boolean).join('; ')}</dd>
          </React.Fragment>
        ))}
      </dl>
      {why.texts.map(([was, now]) => (
        <div key={was + now} className="nbkv-lab-differs">
          <div>was: {was}</div>
          <div>now: {now}</div>
        </div>
      ))}
    </>
  );
}
