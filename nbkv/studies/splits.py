"""How often a certificate made on one part of measured prompts holds on the others, and on all of them.

``python -m nbkv.studies.splits`` prints the table of docs/certify.md from docs/tables/certify.json, a certificate whose
bound was so loose that every prompt was measured under every strategy.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbkv.session.certificates import Certificate
from nbkv.session.certificates.candidates import sorted_out
from nbkv.session.certificates.guarantee import Guarantee
from nbkv.session.certificates.ladder import Ladder, Step, cheapest
from nbkv.strategy import parse

TABLE = Path(__file__).resolve().parents[2] / "docs/tables/certify.json"
BOUNDS, RATE, ALPHA, N, DRAWS = (0.02, 0.03, 0.04, 0.06, 0.08, 0.1), 0.2, 0.1, 20, 200


@dataclass(frozen=True)
class Splits:
    """Of ``draws`` random splits, how many certified anything, and of these what was wrong.

    ``beyond``: some step that was certified has more than ``rate`` of all prompts above ``max_kl``, which the guarantee
    is about; ``held_out``: the chosen one has on the prompts held out, whose share is itself a sample. ``chosen``
    counts what was chosen.
    """

    max_kl: float
    draws: int
    certified: int
    beyond: int
    held_out: int
    chosen: dict[str, int]


def splits(rows: Sequence[dict[str, Any]], promise: Guarantee, n: int, draws: int, seed: int = 0) -> Splits:
    """Return what certificates on ``n`` of the prompts say, ``draws`` times; ``rows`` are those of a certificate."""
    kls = {row["strategy"]: np.array(row["kls"]) for row in rows}
    shares = {row["strategy"]: float(row["compute_share"]) for row in rows}
    ladders = sorted_out([parse(spec) for spec in kls]).ladders
    allowed, draw = promise.allowed(n, len(ladders)), np.random.default_rng(seed)
    chosen: Counter[str] = Counter()
    beyond = held_out = 0
    for _ in range(draws):
        order = draw.permutation(len(next(iter(kls.values()))))
        made = [_measured(ladder, kls, shares, order[:n]) for ladder in ladders]
        stand = [step for ladder in made for step in ladder.certified(promise.max_kl, allowed)]
        best = cheapest(stand)
        if best is None:
            continue
        chosen[best.spec] += 1
        beyond += any((kls[step.spec] > promise.max_kl).mean() > promise.rate for step in stand)
        held_out += bool((kls[best.spec][order[n:]] > promise.max_kl).mean() > promise.rate)
    return Splits(promise.max_kl, draws, sum(chosen.values()), beyond, held_out, dict(chosen))


def _measured(ladder: Ladder, kls: dict[str, Any], shares: dict[str, float], drawn: Any) -> Ladder:  # noqa: ANN401  (indices)
    steps = [Step(step.spec, step.budget, list(kls[step.spec][drawn]), [shares[step.spec]]) for step in ladder.steps]
    return Ladder(steps)


def main() -> int:
    """Print one row a bound."""
    certificate = Certificate.from_dict(json.loads(TABLE.read_text(encoding="utf-8")))
    lines = ["| max_kl | certified | beyond the rate on all | on the held-out | chosen |", "|---|---|---|---|---|"]
    for bound in BOUNDS:
        found = splits(certificate.rows, Guarantee(bound, RATE, ALPHA), N, DRAWS)
        names = ", ".join(f"`{name}` {times}" for name, times in sorted(found.chosen.items())) or "–"
        told = (f"{found.certified} of {DRAWS}", str(found.beyond), str(found.held_out), names)
        lines.append(f"| {bound:g} | {' | '.join(told)} |")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
