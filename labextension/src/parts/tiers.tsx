// What a store holds: one bar a tier.

import * as React from 'react';

import { Tier } from '../protocol';
import { plural, share, size } from '../units';

export function Tiers({ tiers }: { tiers: Tier[] }): React.JSX.Element {
  return (
    <section aria-label="Stored KV">
      <h3>Stored KV</h3>
      {tiers.map(tier => (
        <Bar key={tier.tier} tier={tier} />
      ))}
    </section>
  );
}

function Bar({ tier }: { tier: Tier }): React.JSX.Element {
  const filled = tier.limit ? Math.min(1, tier.bytes / tier.limit) : 0;
  const amount = tier.limit ? `${size(tier.bytes)} of ${size(tier.limit)}` : size(tier.bytes);
  const counts = [
    plural(tier.tokens, 'token'),
    plural(tier.hits, 'hit'),
    plural(tier.misses, 'miss', 'misses'),
    `${tier.evictions} evicted`
  ];
  return (
    <div className="nbkv-lab-tier">
      <div className="nbkv-lab-pair">
        <span className="nbkv-lab-cut" title={tier.tier}>
          {tier.tier}
        </span>
        <span className="nbkv-lab-number">{amount}</span>
      </div>
      <div
        className="nbkv-lab-bar"
        role="meter"
        aria-label={`${tier.tier}: ${amount}`}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={Math.round(100 * filled)}
        title={`${share(filled)} full`}
      >
        <span style={{ width: `${100 * filled}%`, minWidth: tier.bytes ? 2 : 0 }} />
      </div>
      <div className="nbkv-lab-dim">{counts.join(' · ')}</div>
    </div>
  );
}
