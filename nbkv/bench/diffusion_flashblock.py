"""``diffusion.flashblock``: decoding in blocks after a long context, with and without attention kept between passes.

The context's KV are made up: what a pass costs does not depend on what they say, and every candidate reads the same.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

import torch

import nbkv
from nbkv.bench.measure import WARM_UP, BenchRow, TimedCandidate, interleaved
from nbkv.bench.models import Bench, make
from nbkv.kv import KV
from nbkv.models.caches.growing import GrowingCache

if TYPE_CHECKING:
    from nbkv.result import Result
    from nbkv.session.session import Session

NAME = "diffusion.flashblock"
CONTEXTS = (256, 1024, 4096, 16_384)
OWN = "no attention cache (prefix)"
TWO_PARTS = "no attention cache, attention in two parts (tau=1)"
SPECS = {
    OWN: "prefix",
    TWO_PARTS: "flashblock(tau=1, threshold=None, min_gain=0)",
    "kept": "flashblock(tau=2, threshold=None, min_gain=0)",
    "ours": "flashblock(tau=2, threshold=None)",
}
_SETTLES = 6  # answers after which the switch knows what passes cost


@dataclass(frozen=True)
class DiffusionWorkload:
    """How many rows a pass has, how many tokens it reveals, and how many the answer has."""

    block: int
    revealed: int
    new: int

    @property
    def unmask(self) -> str:
        """Return the unmasking rule."""
        return f"static(steps={self.block // self.revealed})"


WORKS = (DiffusionWorkload(4, 1, 16), DiffusionWorkload(32, 1, 32), DiffusionWorkload(32, 4, 32))


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no peer decodes in blocks)
    """Measure each work at each context; say for each work from which context on keeping attention pays."""
    bench = make(shape or "far", torch.float32)
    bench.model.config.mask_token_id, bench.model.config.block_size = bench.vocab - 1, max(w.block for w in WORKS)
    rows: list[BenchRow] = []
    for work in WORKS:
        with nbkv.load(bench.model, tokenizer=bench.tokenizer, block_size=work.block) as session:
            found = [_Regime(bench, session, work, length) for length in ((context,) if context else CONTEXTS)]
            for setting in found:
                rows += setting.rows(rounds)
        pays = [setting.context for setting in found if setting.pays]
        where = f"from {min(pays)} tokens of context on" if pays else "at none of these contexts"
        why = f"without the switch, keeping attention is quicker than the better way without it {where}"
        rows[-1] = replace(rows[-1], notes=(*rows[-1].notes, why))
    return rows


class _Regime:
    """One work after one context."""

    def __init__(self, bench: Bench, session: Session, work: DiffusionWorkload, context: int) -> None:
        self.context, self.pays = context // work.block * work.block, False
        self._bench, self._session, self._work = bench, session, work
        self._ids = [token % (bench.vocab - 1) for token in bench.ids(self.context, seed=context)]
        self._attention: dict[str, list[float]] = defaultdict(list)

    def rows(self, rounds: int) -> list[BenchRow]:
        """Return whole answers against both ways without a cache, and the attention in them."""
        work, name = self._work, SPECS["ours"]
        regime = self._bench.regime(context=self.context, block=work.block, revealed=work.revealed, rounds=rounds)
        row = BenchRow(name=NAME, regime=regime | {"kv": "made up"}, against=OWN, strategy=name)
        self._fill()
        if self._answer(OWN).token_ids != self._answer(TWO_PARTS).token_ids:
            return [replace(row, refused="tau=1 gives other tokens")]
        for _ in range(_SETTLES):
            self._answer("ours")
        self._attention.clear()
        seconds = interleaved([TimedCandidate(each, partial(self._timed, each)) for each in SPECS], rounds)
        self.pays = seconds["kept"] < min(seconds[OWN], seconds[TWO_PARTS])
        row = replace(row, ours=seconds["ours"])
        parts = {each: median(spent[WARM_UP:]) for each, spent in self._attention.items()}
        of_kept = f"attention of the passes over blocks in {SPECS['kept']}"
        return [
            replace(row, baseline=seconds[OWN], notes=self._notes(seconds)),
            replace(row, baseline=seconds[TWO_PARTS], against=TWO_PARTS),
            replace(
                row, baseline=parts[TWO_PARTS], against=f"that of: {TWO_PARTS}", ours=parts["kept"], strategy=of_kept
            ),
        ]

    def _notes(self, seconds: dict[str, float]) -> tuple[str, ...]:
        kept, ours = (self._answer(which).decoding or {} for which in ("kept", "ours"))
        without = f"without the switch {seconds['kept'] * 1000:.1f} ms, {kept['reuse_rate']:.0%} of the passes reused"
        return (f"{without}; with it {ours['off_blocks']} of {ours['blocks']} blocks are off",)

    def _answer(self, which: str) -> Result:
        """Answer once, and note the seconds of attention of a strategy that keeps it."""
        text, work = self._bench.text(self._ids), self._work
        result = self._session.generate(text, strategy=SPECS[which], max_new_tokens=work.new, unmask=work.unmask)
        self._attention[which].append((result.decoding or {}).get("attention_s") or 0.0)
        return result

    def _timed(self, which: str, _: object) -> float:
        return float(self._answer(which).timing.total_s)

    def _fill(self) -> None:
        """Put KV for the context into the store."""
        self._session.store.clear()
        ctx = self._session._open().for_request()  # noqa: SLF001  (nothing public takes KV that no model has made)
        known = ctx.adapter.capabilities
        maker = torch.Generator().manual_seed(0)
        sides = [
            [torch.randn(heads, self.context, width, generator=maker).to(ctx.adapter.device) for heads, width in each]
            for each in (
                zip(known.kv_heads, known.key_dim, strict=True),
                zip(known.kv_heads, known.value_dim, strict=True),
            )
        ]
        lease = ctx.store.take(ctx.space(), self._ids, self.context, GrowingCache)
        lease.buffer.write(0, KV(*(tuple(side) for side in sides)))
        ctx.store.give(lease, self._ids)
