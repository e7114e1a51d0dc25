"""``store.scale``: what finding a prefix costs in a store of many, and what it costs where each new one evicts another.

Lookups are to cost what the prompt costs, however many entries there are. Token ids stand in for K/V: what is measured
is the store's own work. Python's garbage collector does not look at the entries meanwhile.
"""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch

from nbkv.bench.measure import BenchRow, TimedCandidate, interleaved
from nbkv.kv import KV, Space
from nbkv.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME, TOKENS, LOOKUPS = "store.scale", 64, 500
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
BYTES, _SPARE = 2048, 2  # what an entry takes besides its ids, and how many times that must be free
SPACE, VOCABULARY = Space("store.scale", "ids"), list(range(50_000))  # one object a token id, whoever holds it

Entry = tuple[int, ...]


@dataclass(eq=False, slots=True)
class Ids:
    """A buffer that holds token ids in place of their K/V, so that a lookup can be seen to give the right ones."""

    tokens: Entry = ()

    @property
    def base(self) -> int:
        """Return 0: it begins with the sequence."""
        return 0

    @property
    def length(self) -> int:
        """Return the number of tokens."""
        return len(self.tokens)

    @property
    def nbytes(self) -> int:
        """Return the bytes of the ids as 64-bit numbers."""
        return 8 * len(self.tokens)

    def truncate(self, length: int) -> None:
        """Forget all tokens from ``length`` on."""
        self.tokens = self.tokens[:length]

    def read(self, start: int, stop: int) -> KV:
        """Return the ids ``[start, stop)`` as the keys of one layer without values."""
        ids = torch.tensor(self.tokens[start:stop]).reshape(1, -1, 1)
        return KV((ids,), (ids[..., :0],))

    def write(self, start: int, kv: KV) -> None:
        """Put the ids in ``kv`` at ``start``."""
        self.tokens = (*self.tokens[:start], *kv.keys[0].flatten().tolist())

    def expect(self, start: int, like: KV, need: Callable[[int], None]) -> None:  # noqa: ARG002  (a buffer's)
        """Make room for as many ids as ``like`` has, which are written from ``start`` on later."""
        self.tokens = (*self.tokens[:start], *[-1] * like.length)

    def arrived(self) -> None:
        """Do nothing: nobody computes with ids."""

    def fit(self) -> None:
        """Give back nothing: no more is held than is needed."""

    def share(self, spans: Sequence[KV]) -> None:
        """Do nothing: there is nothing before its first token."""


@dataclass(eq=False)
class Filled:
    """A store of ``entries`` that share nothing, and those of them that are looked up."""

    store: MemoryStore
    entries: int
    picked: list[Entry]
    draw: np.random.Generator
    tokens: int
    made: int = 0

    def fresh(self) -> Entry:
        """Return an entry that begins as no other does."""
        self.made += 1
        return (self.made, *(VOCABULARY[i] for i in self.draw.integers(0, len(VOCABULARY), self.tokens - 1)))

    def found(self, _: object = None) -> str:
        """Look up each of ``picked`` as the beginning of a prompt; return what is wrong with what is found."""
        for entry in self.picked:
            lease = self.store.take(SPACE, (*entry, 0), len(entry), Ids)
            right = lease.matched == len(entry) and lease.buffer.tokens == entry  # type: ignore[attr-defined]
            self.store.discard(lease)
            if not right:
                return f"{lease.matched} tokens found of an entry of {len(entry)}, or others"
        return ""

    def evicting(self, new: list[Entry]) -> str:
        """Keep the entries ``new`` in a full store; return what is wrong with it then."""
        before = self.store.counts.evictions
        for entry in new:
            keep(self.store, entry)
        gone, held = self.store.counts.evictions - before, self.store.holds(SPACE, new[-1])
        return "" if (gone, held) == (len(new), self.tokens) else f"{gone} of {len(new)} evicted, {held} tokens kept"


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no model is loaded)
    """Measure ``LOOKUPS`` requests in stores of each size against the smallest; ``context``: the tokens of an entry."""
    tokens = context or TOKENS
    regime = {"device": platform.machine(), "tokens": tokens, "lookups": LOOKUPS, "rounds": rounds}
    room = psutil.virtual_memory().available / (_SPARE * (BYTES + 8 * tokens))
    sizes = [entries for entries in SIZES if entries <= room]
    with _uncollected():
        stores = [filled(entries, tokens) for entries in sizes]
        gc.freeze()
        rows = _rows("found", stores, regime, lambda one: TimedCandidate(str(one.entries), one.found))
        for one in stores:
            one.store.limit = one.store.nbytes
        rows += _rows("evicting", stores, regime, _evicting)
    why = f"there is memory for {room:.0f} entries"
    return rows + [_row(regime, f"in {entries}", missing=why) for entries in SIZES if entries > room]


def _evicting(one: Filled) -> TimedCandidate:
    return TimedCandidate(str(one.entries), one.evicting, lambda: [one.fresh() for _ in range(LOOKUPS)])


def _rows(
    what: str, stores: list[Filled], regime: dict[str, object], of: Callable[[Filled], TimedCandidate]
) -> list[BenchRow]:
    candidates = [of(one) for one in stores]
    wrong = {each.name: each.work(each.prepare()) for each in candidates}
    seconds = interleaved(candidates, int(str(regime["rounds"])))
    first, *others = [each.name for each in candidates]
    rows = []
    for name in others:
        if why := wrong[name] or wrong[first]:
            rows.append(_row(regime, f"{what} in {name}", refused=str(why)))
            continue
        notes = (f"{seconds[name] / LOOKUPS * 1e6:.1f} µs a request",)
        rows.append(_row(regime, f"{what} in {name}", baseline=seconds[first], ours=seconds[name], notes=notes))
    return rows


def _row(regime: dict[str, object], strategy: str, **figures: Any) -> BenchRow:  # noqa: ANN401  (fields of a row)
    return BenchRow(name=NAME, regime=regime, against=f"{SIZES[0]} entries", strategy=strategy, **figures)


def filled(entries: int, tokens: int) -> Filled:
    """Return a store of ``entries`` entries of ``tokens`` tokens each."""
    one = Filled(MemoryStore(limit=2**60), entries, [], np.random.default_rng(entries), tokens)
    looked_up = set(one.draw.choice(entries, min(LOOKUPS, entries), replace=False).tolist())
    for number in range(entries):
        entry = one.fresh()
        keep(one.store, entry)
        if number in looked_up:
            one.picked.append(entry)
    one.picked = (one.picked * (-(-LOOKUPS // len(one.picked))))[:LOOKUPS]
    return one


def keep(store: MemoryStore, entry: Entry) -> None:
    """Have ``store`` keep ``entry``, as a request does."""
    lease = store.take(SPACE, entry, len(entry) - 1, Ids)
    lease.buffer.tokens = entry  # type: ignore[attr-defined]  # ours
    store.give(lease, entry)


@contextmanager
def _uncollected() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.enable()
