"""Puts each token that ran down to a cause: what was known of its prompt, what became of that, and where text parts."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from nbkv.misses import Cause, Miss
from nbkv.prompts.matching import common_prefix, find_matches
from nbkv.result import Provenance, runs
from nbkv.session.misses import wording
from nbkv.session.misses.differences import Difference, Pieces, differences
from nbkv.session.misses.past import WINDOW, Past, Seen
from nbkv.show.units import plural
from nbkv.stores.tiers.key import STEP

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MOVING = 'move what is behind it: match="earlier" with a chunk strategy, such as strategy="blend"'
_COMPARED = 48  # sequences that are searched for the prompt's text at other places: the nearest and the newest


@dataclass(frozen=True, eq=False, kw_only=True)
class Inquiry:
    """The request whose misses are asked for: what it was (``seen``), where its tokens came from, how it was served.

    ``provenance`` uint8 ``[n]``; ``reusable`` first tokens could have been reused at best. ``chunks`` are paths (sink
    and ids) with the token spans of the chunks. ``unread`` is why nothing was taken from the store; with ``places`` its
    strategy takes chunks too. ``states``: the model goes on from state checkpoints alone. ``declined`` is why chunks
    that were known were not used, ``declined_s`` the seconds that using them was expected to save.
    """

    seen: Seen
    provenance: NDArray[np.uint8]
    reusable: int
    strategy: str
    chunks: tuple[tuple[tuple[int, ...], int, int], ...] = ()
    unread: str = ""
    places: bool = False
    states: bool = False
    declined: str = ""
    declined_s: float | None = None

    @property
    def length(self) -> int:
        """Return the number of prompt tokens."""
        return len(self.provenance)


@dataclass(eq=False)
class Diagnosis:
    """The causes of one request's misses, found one after another: a token keeps the first that claims it."""

    asked: Inquiry
    past: Past
    pieces: Pieces
    found: list[Miss] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Look up what was computed before the request."""
        provenance = self.asked.provenance
        self._open = (provenance == Provenance.FRESH) | (provenance == Provenance.RECOMPUTED)
        self._ids = np.array(self.asked.seen.ids[: self.asked.length], dtype=np.int64)
        self._known = self.past.before(self.asked.seen.order, self.asked.seen.space.tenant)
        self._common = {seen: common_prefix(self._ids, seen.array) for seen in self._known}
        self._first = int(self._open.argmax()) if self._open.any() else len(self._open)

    def misses(self) -> list[Miss]:
        """Return every token that ran in exactly one miss, by position."""
        self._recomputed()
        if self.asked.declined:
            self._declined()
        self._chunks()
        self._prefixes()
        self._others()
        self._parted()
        self._claim(Cause.NEW, 0, self.asked.length, "not seen before by a session of this process", saves=0)
        return sorted(self.found, key=lambda miss: miss.start)

    # what ran although it was known

    def _recomputed(self) -> None:
        again = self.asked.provenance == Provenance.RECOMPUTED
        for value, start, stop in runs(again):
            if value and self.asked.states and stop - start > 1:
                detail = f"no states were kept behind token {stop}, the nearest stand behind token {start}"
                fix = "ask this beginning once more: a checkpoint is then kept where prompts part"
                self._claim(Cause.CHECKPOINT, start, min(stop, self.asked.reusable), detail, fix)
        self._last()
        for value, start, stop in runs(again & self._open):
            if value:
                detail = f"{self.asked.strategy} ran them again to correct what was reused"
                self._claim(Cause.CHOSEN, start, stop, detail, "a smaller budget, at a cost in fidelity", saves=0)

    def _last(self) -> None:
        if self.asked.length - self.asked.reusable > 1:
            detail = "the block that the answer goes on from always runs"
        else:
            detail = "the last token always runs, for the logits behind it"
        self._claim(Cause.LAST, self.asked.reusable, self.asked.length, detail, saves=0)

    def _declined(self) -> None:
        spans = [(start, stop) for _, start, stop in self.asked.chunks] or [(0, self.asked.length)]
        tokens = sum(stop - start for start, stop in spans)
        for start, stop in spans:
            part = self.asked.declined_s
            self._claim(
                Cause.BREAK_EVEN,
                start,
                stop,
                f"reuse was possible and turned down: {self.asked.declined}",
                "nothing to do: longer chunks, or fewer words after them, would pay" if part is not None else "",
                saves=0,
                seconds=None if part is None else part * (stop - start) / max(1, tokens),
            )

    # what was known and is gone, or lies where this request may not look

    def _chunks(self) -> None:
        if not self.asked.places:
            return
        for path, start, stop in self.asked.chunks:
            made = next((seen for seen in self._known if seen.ids[: len(path)] == path and not seen.lost), None)
            if made is not None and self._here(made) and self._open[start:stop].all():
                self._gone(made, start, stop, len(path) - (stop - start))

    def _prefixes(self) -> None:
        ranked = sorted(self._known, key=lambda seen: (self._rank(seen), -self._common[seen]))
        for seen in ranked:
            stop = self._common[seen] - self._common[seen] % (seen.space.block or 1)
            able = self.asked.reusable - self._first
            if min(stop - self._first, able) >= min(WINDOW, able) and self._open[self._first : stop].any():
                self._known_prefix(seen, stop)

    def _rank(self, seen: Seen) -> int:
        """Return how near ``seen`` is: here and kept, here, another store, another dtype, another model."""
        own = self.asked.seen
        if self._here(seen):
            return 1 if seen.lost else 0
        if seen.space == own.space:
            return 2
        return 4 if seen.space.dtype == own.space.dtype and seen.space.model != own.space.model else 3

    def _here(self, seen: Seen) -> bool:
        return seen.space == self.asked.seen.space and seen.store == self.asked.seen.store

    def _known_prefix(self, seen: Seen, stop: int) -> None:
        own, start, who = self.asked.seen, self._first, _called(seen, self.asked.seen)
        if self._here(seen) and not seen.lost:
            if not self.asked.unread:
                self._gone(seen, start, stop, 0)
            elif self.asked.reusable:
                detail = f"known from {who}: {self.asked.unread}"
                self._claim(Cause.STRATEGY, start, stop, detail, 'strategy="prefix" reuses them')
            else:
                self._claim(Cause.STRATEGY, start, stop, self.asked.unread)
        elif self._here(seen):
            detail = f"{who} computed them and kept nothing: {seen.lost}"
            self._claim(Cause.NOT_KEPT, start, stop, detail, 'ask first with strategy="prefix", which keeps them')
        elif seen.space == own.space:
            detail = f"{who} of session {seen.session!r} has them, in another store"
            fix = "give both sessions one store: store=session.store"
            fix += f" (tiers below memory find beginnings from {plural(STEP, 'token')} on)" if stop < STEP else ""
            self._claim(Cause.ELSEWHERE, start, stop, detail, fix)
        elif seen.space.dtype != own.space.dtype:  # the fingerprint differs as well then
            detail = f"{who} computed them in {seen.space.dtype}, this request runs in {own.space.dtype}"
            self._claim(Cause.DTYPE, start, stop, detail, "one dtype for all sessions on a store")
        else:
            detail = f"{who} computed them with other weights or another adapter active"
            self._claim(Cause.ADAPTER, start, stop, detail, "ask all of a text's questions under one adapter")

    def _others(self) -> None:
        """Claim what is a whole prompt of another tenant's; neither who, nor when, nor what came behind it is told."""
        own = self.asked.seen
        stop = self.past.prompt_of_others(self._ids, own.order, own.space)
        detail = "computed for another tenant; tenants share nothing"
        self._claim(Cause.TENANT, 0, stop, detail, "one tenant for all who may read the same text")

    def _gone(self, seen: Seen, start: int, stop: int, shift: int) -> None:
        """Claim ``[start, stop)``: tokens from ``start + shift`` on of ``seen``, which its store had and lost."""
        left = [
            each
            for each in self.past.departures(seen, self.asked.seen.order)
            if each.start < stop + shift and each.start + each.tokens > start + shift
        ]
        who = _called(seen, self.asked.seen)
        if left:
            ours = left[0].during and left[0].tenant == self.asked.seen.space.tenant
            when = f", during {left[0].during}" if ours else ""
            detail = f"kept since {who}, evicted from {left[0].tier}{when}"
            self._claim(Cause.EVICTED, start, stop, detail, "a larger store, a tier below it, or a pin")
        else:
            detail = f"kept since {who}, and gone without an eviction: the store was cleared or replaced"
            self._claim(Cause.CLEARED, start, stop, detail, "a store that outlives this, such as disk:PATH")

    # where text parts

    def _parted(self) -> None:
        nearest = sorted(self._known, key=lambda seen: (-self._common[seen], -seen.order))[: _COMPARED // 2]
        compared = list(dict.fromkeys([*nearest, *self._known[: _COMPARED // 2]]))
        for seen in nearest:
            self._merged(seen)
        hits = find_matches(self._ids, [s.array for s in compared], [s.hashes for s in compared], WINDOW)
        for which, seen in enumerate(compared):
            own = [hit for hit in hits if hit.which == which]
            for each in differences(self._common[seen], own):
                self._difference(seen, each)
        for hit in sorted(hits, key=lambda hit: -hit.length):
            self._moved(hit.at, hit.at + hit.length, compared[hit.which])

    def _merged(self, seen: Seen) -> None:
        """Claim tokens behind ``seen``'s common prefix whose text stood there too, in other tokens."""
        at = self._common[seen]
        if at >= min(len(seen.ids), self.asked.length) or not self._open[at]:
            return
        new, old = self.pieces(self.asked.seen.ids[at : self.asked.length]), self.pieces(seen.ids[at:])
        now, was = "".join(new), "".join(old)
        same = next((i for i, (a, b) in enumerate(zip(now, was, strict=False)) if a != b), min(len(now), len(was)))
        covered = sum(stop <= same for stop in accumulate(map(len, new)))
        if same >= max(len(new[0]), len(old[0])) and covered and wording.visible(now[:same]):
            detail = (
                f"the same text as in {_called(seen, self.asked.seen)}, in other tokens: {wording.words(old)} before"
            )
            fix = "give the text before as a part of its own, or the very ids that were decoded (session.chat)"
            was, now = (" | ".join(each[:6])[: wording.SHOWN] for each in (old, new))
            self._claim(Cause.MERGED, at, at + covered, detail, fix, was=was, now=now)

    def _difference(self, seen: Seen, each: Difference) -> None:
        """Claim the tokens behind a difference to ``seen`` that both have, and judge the difference by its texts."""
        if not self._open[each.at : each.at + each.length].any():
            return
        was = "".join(self.pieces(seen.ids[each.old[0] : each.old[1]]))
        now = "".join(self.pieces(self.asked.seen.ids[each.new[0] : each.new[1]]))
        kind = each.kind(seen, self.asked.seen, was, now, self.pieces)
        if kind is None:
            return
        who = _called(seen, self.asked.seen)
        place = f"{wording.visible(was) or 'nothing'} stood there in {who}"
        detail, fix = {
            Cause.THINKING: (
                f"behind thinking that {who} had and this prompt has not",
                f"keep it, as chat.send does, or {_MOVING}",
            ),
            Cause.TEMPLATE: (
                f"the chat template wrote other words before them than for {who}",
                f"put what changes (dates, tools) last, use session.chat, which keeps the ids, or {_MOVING}",
            ),
            Cause.EDITED: (f"text before them differs: {place}", f"put what changes behind what stays, or {_MOVING}"),
        }[kind]
        self._claim(kind, each.at, each.at + each.length, detail, fix, was=wording.middle(was), now=wording.middle(now))

    def _moved(self, start: int, stop: int, seen: Seen) -> None:
        if self._open[start:stop].sum() < WINDOW or self.asked.seen.space.model != seen.space.model:
            return
        who = _called(seen, self.asked.seen)
        fix = f"{_MOVING}, or give it as a chunk (session.chunk)"
        self._claim(Cause.MOVED, start, stop, f"{who} had the same tokens at another place", fix)

    def _claim(
        self,
        cause: Cause,
        start: int,
        stop: int,
        detail: str,
        fix: str = "",
        *,
        saves: int | None = None,
        seconds: float | None = None,
        was: str = "",
        now: str = "",
    ) -> None:
        """Put the tokens of ``[start, stop)`` that nobody has claimed down to ``cause``, one miss for each run."""
        for free, begin, end in runs(self._open[start:stop]):
            if free:
                able = max(0, min(start + end, self.asked.reusable) - (start + begin))
                miss = Miss(
                    cause=cause,
                    start=start + begin,
                    stop=start + end,
                    saves=able if saves is None else saves,
                    detail=detail,
                    fix=fix,
                    seconds=seconds,
                    was=was,
                    now=now,
                )
                self.found.append(miss)
        self._open[start:stop] = False


def _called(seen: Seen, own: Seen) -> str:
    return seen.by if seen.session == own.session else f"{seen.by} of {seen.session}"
