"""What a strategy computed in earlier prompts of its session, kept so that runs of it can be placed in later ones.

It was computed while attending to K/V that were not exact, so it is that strategy's and session's alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nbkv.context import Request
from nbkv.families.blend.layerwise import SpanKV
from nbkv.kv import KV, Space
from nbkv.prompts.earlier import SHORTEST, chosen_runs, in_order
from nbkv.prompts.matching import Match, common_prefix, find_matches, rolling_hashes
from nbkv.result import Chunk

if TYPE_CHECKING:
    from nbkv.prompts.matching import Hashes, Ids


@dataclass(frozen=True, eq=False, kw_only=True)
class HarvestedKV(SpanKV):
    """KV harvested from a prompt, and the space in which alone it may be used again."""

    space: Space

    @property
    def nbytes(self) -> int:
        """Return the bytes of the KV."""
        return 0 if self.kv is None else self.kv.nbytes


@dataclass(frozen=True, eq=False, kw_only=True)
class EarlierPrompt(HarvestedKV):
    """A prompt and its answer, ``ids``, as they were run; K/V are those of ``ids[base:]``, ``marks`` their hashes.

    ``turn`` counts the prompts of a session.
    """

    kv: KV
    ids: Ids
    marks: Hashes
    turn: int

    @classmethod
    def of(cls, ids: Sequence[int] | Ids, kv: KV, space: Space, turn: int, width: int = SHORTEST) -> EarlierPrompt:
        """Return ``ids`` with ``kv``, those of all of them; ``width`` is the length of its hashed windows."""
        array = np.array(ids)
        return cls(space=space, kv=kv, ids=array, marks=rolling_hashes(array, width), turn=turn)

    @property
    def own(self) -> Ids:
        """Return the ids that it has K/V of."""
        return self.ids[self.base :]

    def behind(self, position: int) -> EarlierPrompt:
        """Return it without what stands before ``position``, in memory of its own."""
        cut = position - self.base
        return self if cut <= 0 else replace(self, kv=self.kv[cut:].compact(), base=position, marks=self.marks[cut:])

    def run(self, match: Match) -> SpanKV:
        """Return the K/V of ``match``, which counts from the first of its own ids."""
        return SpanKV(kv=self.kv[match.start : match.start + match.length], base=self.base + match.start)


def find_runs(ids: Sequence[int], earlier: Sequence[EarlierPrompt], shortest: int) -> list[Match]:
    """Return which runs of ``ids`` the ``earlier`` prompts had too, at least ``shortest`` tokens long."""
    return find_matches(np.array(ids), [one.own for one in earlier], [one.marks for one in earlier], shortest)


def with_earlier(
    request: Request, earlier: Sequence[EarlierPrompt], prefix: int, lineage: str
) -> tuple[Request, Mapping[int, SpanKV]]:
    """Return ``request`` with the runs behind its first ``prefix`` tokens that are among ``earlier``, and their K/V."""
    matches = find_runs(request.ids, earlier, SHORTEST)
    runs, others = chosen_runs(matches, request.prompt.chunks, prefix, len(request.ids))
    held = {match.at: earlier[match.which].run(match) for match in runs}
    spans = [spot(request, match, lineage) for match in runs]
    return replace(request, prompt=replace(request.prompt, chunks=in_order([*others, *spans]))), held


def spot(request: Request, match: Match, lineage: str) -> tuple[Chunk, int, int]:
    """Return the tokens of ``match`` as a chunk of ``request``'s prompt, with its span."""
    stop = match.at + match.length
    own = request.ids[match.at : stop]
    return Chunk(name="", text="", token_ids=own, sink=(), model="", lineage=lineage), match.at, stop


def remembered(earlier: Sequence[EarlierPrompt], new: EarlierPrompt, limit: int) -> tuple[EarlierPrompt, ...]:
    """Return ``earlier`` with ``new``, at most ``limit`` bytes of them: the oldest go first.

    What another one begins with as ``new`` does is kept once, in ``new``.
    """
    left = []
    for one in earlier:
        cut = one.behind(common_prefix(one.ids, new.ids)) if one.space == new.space else one
        if cut.kv.length >= SHORTEST:
            left.append(cut)
    left.append(new)
    nbytes = sum(one.nbytes for one in left)
    while left and nbytes > limit:
        nbytes -= left.pop(0).nbytes
    return tuple(left)
