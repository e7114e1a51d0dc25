"""The loop of a batch: groups that share a prefix, and every pass over tokens of all sequences under way.

A pass runs one token of each answer and, up to a number of tokens, of prompts that begin: so prefills fill the passes
that few answers are left in (token batching of BatchLLM, arXiv 2412.03594, section 4.4). A group's prefix is held from
its first prompt to its last, no longer.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch

from nbkv.context import Context
from nbkv.events import Reused
from nbkv.families.prefix.base import held
from nbkv.inference.batch_request import BatchRequest
from nbkv.kv import KV
from nbkv.models.caches.packed import Bundle
from nbkv.models.work import Unfollowed, Work
from nbkv.stopping import Stopped
from nbkv.strategy import BatchPlan, RequestGroup

_QUICK_S = 0.1  # after a pass that took less, a stop can wait for the end of the next one


@dataclass
class BatchFigures:
    """What a batch took: ``passes`` over ``rows`` tokens in all, of which ``prefix_rows`` were of shared prefixes.

    Bytes of K/V, the most at any moment: ``shared_bytes`` of prefixes, each counted once, ``own_bytes`` allocated for
    what is each prompt's own, ``peak_bytes`` of both. ``groups`` are the sizes of the groups that share a prefix,
    ``together`` how many requests ran with others.
    """

    passes: int = 0
    rows: int = 0
    prefix_rows: int = 0
    shared_bytes: int = 0
    own_bytes: int = 0
    peak_bytes: int = 0
    together: int = 0
    groups: list[int] = field(default_factory=list)

    def with_those_of(self, later: BatchFigures) -> BatchFigures:
        """Return the figures of this wave and a ``later`` one together: bytes are the most of both."""
        added = {
            name: getattr(self, name) + getattr(later, name) for name in ("passes", "rows", "prefix_rows", "together")
        }
        most = {
            name: max(getattr(self, name), getattr(later, name)) for name in ("shared_bytes", "own_bytes", "peak_bytes")
        }
        return BatchFigures(**added, **most, groups=[*self.groups, *later.groups])

    def look(self, bundles: Sequence[Bundle]) -> None:
        """Take note of the bytes that ``bundles`` hold now."""
        shared: dict[int, int] = {}
        for piece in (piece for bundle in bundles for piece in bundle.pieces):
            at = piece.keys[0].data_ptr()
            shared[at] = max(shared.get(at, 0), piece.nbytes)
        own = sum(bundle.nbytes for bundle in bundles)
        self.own_bytes = max(self.own_bytes, own)
        self.shared_bytes = max(self.shared_bytes, sum(shared.values()))
        self.peak_bytes = max(self.peak_bytes, own + sum(shared.values()))


@dataclass(eq=False)
class _SeatedGroup:
    """A group under way: its sequences by slot, those that have not begun, and what holds its prefix."""

    group: RequestGroup
    bundle: Bundle
    left: deque[int]
    holding: ExitStack
    matched: int | None
    rows: list[BatchRequest] = field(default_factory=list)

    def leave(self, row: BatchRequest) -> None:
        """End ``row``; the last sequence moves to its slot."""
        self.bundle.remove(row.slot)
        last = self.rows.pop()
        if last is not row:
            self.rows[row.slot], last.slot = last, row.slot

    def reserved(self, more: Sequence[BatchRequest] = ()) -> int:
        """Return for how many own tokens there must be memory in the end, with ``more`` sequences."""
        rows = [*self.rows, *more]
        return len(rows) * max((row.own_tokens - self.group.shared for row in rows), default=0)


class BatchLoop:
    """Runs the requests of a batch as ``plan`` says; ``figures`` say what it took."""

    def __init__(self, rows: Sequence[BatchRequest], plan: BatchPlan, ctx: Context) -> None:
        """Prepare ``rows``, which ``plan`` names by their places here."""
        self._rows, self._plan, self._ctx = rows, plan, ctx
        self._waiting = deque(plan.groups)
        self._seated: list[_SeatedGroup] = []
        self._quick = False
        self.figures = BatchFigures(
            together=sum(len(group.members) for group in plan.groups),
            groups=[len(group.members) for group in plan.groups if group.shared],
        )

    def finished(self) -> Iterator[BatchRequest]:
        """Yield the requests as they finish or fail; raises ``Stopped`` when all under way have been interrupted."""
        try:
            while self._waiting or self._seated:
                self._seat()
                yield from self._pass()
                self._close()
            yield from self._alone()
        except Stopped:
            for row in [row for seated in self._seated for row in seated.rows]:
                row.end("interrupted")
                yield row
            raise
        finally:
            self._close(everything=True)

    def _alone(self) -> Iterator[BatchRequest]:
        for at in self._plan.alone:
            row = self._rows[at]
            try:
                for _ in row.pieces():
                    pass
            except Exception as error:  # noqa: BLE001  (a processor of the caller's: the other prompts can go on)
                row.error = error
            yield row
            if row.result is not None and row.result.finish_reason == "interrupted" and row.error is None:
                raise Stopped

    # who is under way

    def _seat(self) -> None:
        """Begin as many requests as there is room for, of groups under way before new ones."""
        while (seated := self._open()) is not None:
            row = self._rows[seated.left.popleft()]
            row.seat(seated.bundle, seated.group, seated.matched)
            seated.matched = None
            seated.rows.append(row)

    def _open(self) -> _SeatedGroup | None:
        """Return the group whose next request may begin now; None if none may."""
        under_way = [row for seated in self._seated for row in seated.rows]
        ahead = sum(len(row.ahead) for row in under_way)
        if len(under_way) >= self._plan.width or (under_way and ahead >= self._plan.tokens):
            return None
        for seated in self._seated:
            if seated.left:
                return seated if not under_way or self._fits(seated, seated.left[0]) else None
        if not self._waiting or (under_way and not self._fits(None, self._waiting[0].members[0])):
            return None
        self._seated.append(self._begun(self._waiting.popleft()))
        return self._seated[-1]

    def _fits(self, among: _SeatedGroup | None, at: int) -> bool:
        """Return whether there is memory for request ``at`` beside others, ``among`` a group or in a new one."""
        tokens = sum(seated.reserved([self._rows[at]] if seated is among else ()) for seated in self._seated)
        if among is None:
            tokens += self._rows[at].own_tokens
        return tokens * self._ctx.adapter.token_bytes <= self._plan.nbytes

    def _begun(self, group: RequestGroup) -> _SeatedGroup:
        """Have the prefix of ``group`` computed, where it is not stored, and hold it."""
        holding, pieces, matched = ExitStack(), tuple[KV, ...](), 0
        if group.shared:
            ids = self._rows[group.members[0]].prompt.ids[: group.shared]
            pieces, matched = holding.enter_context(held(ids, self._ctx, self._ctx.work()))
            if matched:
                self._ctx.tell(Reused, start=0, stop=matched, tier=self._ctx.store.name)
            self.figures.passes += matched < group.shared
            self.figures.rows += group.shared - matched
            self.figures.prefix_rows += group.shared - matched
        bundle = Bundle(pieces, self._ctx.adapter.n_layers)
        return _SeatedGroup(group, bundle, deque(group.members), holding, matched)

    def _close(self, *, everything: bool = False) -> None:
        """Let the prefixes go of groups that have ended."""
        for seated in self._seated:
            if everything or not (seated.rows or seated.left):
                seated.holding.close()
        self._seated = [] if everything else [seated for seated in self._seated if seated.rows or seated.left]

    # what runs

    def _pass(self) -> Iterator[BatchRequest]:
        """Run one token of each answer, and tokens of prompts that begin; yield who is done."""
        self._ctx.stopper.check()
        fed = list(self._fed())
        feeds = [row.feed(seated.bundle, n) for seated, row, n in fed]
        rows = sum(n for _, _, n in fed)
        began = time.perf_counter()
        logits = self._ctx.adapter.packed(feeds, self._work(prompts=rows > len(fed)))
        largest = logits.argmax(-1).tolist() if any(row.plain for _, row, _ in fed) else [0] * len(fed)
        self._quick = time.perf_counter() - began < _QUICK_S
        self.figures.passes += 1
        self.figures.rows += rows
        self.figures.look([seated.bundle for seated in self._seated])
        for (seated, row, n), after, best in zip(fed, logits, largest, strict=True):
            if self._ended(row, n, after, best):
                seated.leave(row)
                yield row

    def _fed(self) -> Iterator[tuple[_SeatedGroup, BatchRequest, int]]:
        """Yield who takes part in the next pass, and with how many tokens: answers first, then prompts in order."""
        under_way = [(seated, row) for seated in self._seated for row in seated.rows]
        room = max(1, self._plan.tokens - sum(len(row.ahead) == 1 for _, row in under_way))
        for seated, row in under_way:
            n = 1 if len(row.ahead) == 1 else min(len(row.ahead), room)
            room -= n if len(row.ahead) > 1 else 0
            if n:
                yield seated, row, n

    def _work(self, *, prompts: bool) -> Work:
        """Return what follows the layers: all of them while prompts run, or where a pass takes long."""
        if prompts:
            return self._ctx.work()
        return Unfollowed() if self._quick else Work(on_layer=lambda *_: self._ctx.stopper.check())

    @staticmethod
    def _ended(row: BatchRequest, tokens: int, logits: torch.Tensor, largest: int) -> bool:
        try:
            reason = row.fed(tokens, logits, largest)
        except Exception as error:  # noqa: BLE001  (a processor or criterion of the caller's: the others go on)
            row.error = error
            return True
        if reason is not None:
            row.end(reason)
        return reason is not None
