"""Runs of tokens that earlier prompts and answers of a session had too, wherever in a prompt they stand now.

When one early thing of a history changes, all behind it is the same text at another place, in the same order.
Each run becomes a chunk whose sink is what stood before it then, so that its K/V are found where that sequence left
them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from nbkv.prompts.matching import Match, find_matches, without_overlap
from nbkv.prompts.prompt import Prompt
from nbkv.result import Chunk

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nbkv.prompts.matching import Hashes, Ids

SHORTEST = 16  # tokens: shorter runs are the template's own words and chance
Spot = tuple[Chunk, int, int]  # a chunk and its span in a prompt


class EarlierSequence(Protocol):
    """A prompt and its answer: token ``ids``, the same as an ``array``, its window ``hashes``, what it was (``by``)."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Return the token ids."""

    @property
    def array(self) -> Ids:
        """Return the ids as an array."""

    @property
    def hashes(self) -> Hashes:
        """Return the hashes of its windows of ``width`` tokens."""

    @property
    def by(self) -> str:
        """Return what it was, in words."""


def with_runs(
    prompt: Prompt,
    earlier: Sequence[EarlierSequence],
    known: Callable[[Sequence[int]], int],
    model: str,
    width: int,
) -> Prompt:
    """Return ``prompt`` with runs of at least 16 tokens that ``earlier`` sequences had as chunks, longest first.

    ``known`` says how many of the first of given ids are stored; what the prompt begins with needs no run. ``width`` is
    that of the hashed windows, at most 16. Chunks that were encoded apart stay; an answer that a run covers is the run.
    """
    matches = find_matches(
        np.array(prompt.ids), [each.array for each in earlier], [each.hashes for each in earlier], width
    )
    held = {which: known(earlier[which].ids) for which in {match.which for match in matches}}
    stored = [
        match._replace(length=min(match.length, held[match.which] - match.start))
        for match in matches
        if held[match.which] - match.start >= SHORTEST
    ]
    runs, others = chosen_runs(stored, prompt.chunks, known(prompt.ids), len(prompt.ids))
    spans = [
        (
            Chunk(
                name=earlier[which].by,
                text="",
                token_ids=prompt.ids[at : at + length],
                sink=earlier[which].ids[:start],
                model=model,
                lineage="exact",
            ),
            at,
            at + length,
        )
        for at, which, start, length in runs
    ]
    return replace(prompt, chunks=in_order([*others, *spans]), searched=True)


def chosen_runs(
    matches: Sequence[Match], chunks: Sequence[Spot], prefix: int, length: int
) -> tuple[list[Match], list[Spot]]:
    """Return which of ``matches`` are taken behind the first ``prefix`` of ``length`` tokens, and which chunks stay.

    No run overlaps another, or a chunk that stays: those encoded apart (canonical) all do, and of the others those that
    no run touches, or no run covers from end to end while their own K/V are exact. Runs of one sequence stand in its
    order (``in_sequence``).
    """
    matches = in_sequence(matches)
    taken = np.zeros(length, dtype=np.bool_)
    taken[:prefix] = True
    apart = [each for each in chunks if each[0].lineage == "canonical"]
    _take(taken, apart)
    runs = without_overlap(matches, taken, SHORTEST)
    whole = [each for each in chunks if each[0].lineage == "exact" and not _covered(each, runs)]
    _take(taken, whole)
    runs = without_overlap(matches, taken, SHORTEST)
    rest = [each for each in chunks if each[0].lineage not in {"canonical", "exact"} and not _touched(each, runs)]
    return runs, [*apart, *whole, *rest]


def in_sequence(matches: Sequence[Match]) -> list[Match]:
    """Return those of ``matches`` that stand in the order they had: of each known sequence the longest such chain.

    A history that was edited keeps its order. What goes back in it is said again, such as a question that was first
    asked in front of what now stands before it: its K/V have seen nothing of that, and it is computed.
    """
    found: list[Match] = []
    for which in dict.fromkeys(match.which for match in matches):
        chain = sorted(match for match in matches if match.which == which)
        at, start, length = np.array([(each.at, each.start, each.length) for each in chain]).T
        best, before = length.copy(), np.full(len(chain), -1)
        for i in range(1, len(chain)):
            fits = (at[:i] < at[i]) & (start[:i] < start[i])
            fits &= (at[:i] + length[:i] < at[i] + length[i]) & (start[:i] + length[:i] < start[i] + length[i])
            if fits.any():
                before[i] = int(np.where(fits, best[:i], -1).argmax())
                best[i] += best[before[i]]
        last = int(best.argmax())
        while last >= 0:
            found.append(chain[last])
            last = int(before[last])
    return sorted(found)


def in_order(chunks: Iterable[Spot]) -> tuple[Spot, ...]:
    """Return ``chunks`` by where they begin."""
    return tuple(sorted(chunks, key=lambda each: each[1]))


def _take(taken: NDArray[np.bool_], chunks: Iterable[Spot]) -> None:
    for _, start, stop in chunks:
        taken[start:stop] = True


def _covered(chunk: Spot, runs: Iterable[Match]) -> bool:
    return any(run.at <= chunk[1] and chunk[2] <= run.at + run.length for run in runs)


def _touched(chunk: Spot, runs: Iterable[Match]) -> bool:
    return any(run.at < chunk[2] and chunk[1] < run.at + run.length for run in runs)
