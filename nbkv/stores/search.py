"""Which entries hold the next tokens of a prompt, in tiers that are asked fastest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nbkv.stores.tiers.entry import Entry
from nbkv.stores.tiers.guard import GuardedTier
from nbkv.stores.tiers.key import STEP, EntryKey, PathKeys


@dataclass(frozen=True, eq=False)
class FoundSpan:
    """The tokens ``[start, stop)`` of a prompt, which ``entry`` in ``tier`` holds."""

    tier: GuardedTier
    entry: Entry
    start: int
    stop: int


@dataclass(eq=False)
class PathSearch:
    """What ``tiers`` hold of ``ids`` from position ``start`` up to ``stop``, span by span without a gap.

    First all marks of the prompt are asked for at once. Where what was found ends between two marks, the positions up
    to the next one are asked for too: an entry may begin and end there. Of diffusion blocks of ``block`` tokens whole
    ones are found.
    """

    keys: PathKeys
    ids: Sequence[int]
    tiers: Sequence[GuardedTier]
    start: int
    stop: int
    block: int = 1
    _candidates: dict[tuple[EntryKey, GuardedTier], int] = field(default_factory=dict)

    def spans(self) -> Iterator[FoundSpan]:
        """Yield the spans in order."""
        at, seam = self.start, -1
        self._ask(range((at // STEP + 1) * STEP, self.stop + 1, STEP))
        while at < self.stop:
            found = self._best(at)
            if found is None and seam != at:
                seam = at
                self._ask(range(at + 1, min(at + STEP, self.stop + 1)))
                found = self._best(at)
            if found is None:
                return
            yield found
            at = found.stop

    def _ask(self, positions: range) -> None:
        """Note as candidates the entries that have a mark at one of ``positions``."""
        marks = {self.keys.at(position): position for position in positions}
        if not marks:
            return
        for tier in self.tiers:
            for mark, keys in tier.find(list(marks)).items():
                for key in keys:
                    known = self._candidates.get((key, tier), 0)
                    self._candidates[key, tier] = max(known, marks[mark])

    def _best(self, at: int) -> FoundSpan | None:
        """Return what reaches farthest of the candidates that hold the token at position ``at``."""
        while True:
            here = [each for each, reach in self._candidates.items() if each[0].start <= at < reach]
            if not here:
                return None
            best = max(here, key=lambda each: (self._candidates[each], -self.tiers.index(each[1])))
            del self._candidates[best]
            key, tier = best
            entry = tier.get(key)
            if entry is None or entry.header.before != self.keys.at(key.start):
                continue
            reach = min(entry.header.common(self.ids), self.stop)
            reach -= reach % self.block
            if reach > at:
                return FoundSpan(tier, entry, at, reach)
