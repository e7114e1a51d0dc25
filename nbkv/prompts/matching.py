"""Where known token sequences occur in a new one: rolling hashes find candidates, the tokens themselves decide.

The hash of a window is a polynomial over scrambled token ids, modulo 2^64 (Karp and Rabin, 1987). All windows of a
sequence are hashed at once from running sums: the base is odd, so that it has an inverse modulo 2^64. A hash never
counts as proof: what is returned was compared token by token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]
    Hashes = NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15  # odd
_INVERSE = pow(_BASE, -1, 2**64)
_MOST = 4  # known windows looked at for each new one: text that repeats itself must not take quadratic time
_SCRAMBLE = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64: plain ids would leave regular collisions


class Match(NamedTuple):
    """``length`` tokens from ``at`` on equal those of known sequence ``which`` from ``start`` on."""

    at: int
    which: int
    start: int
    length: int


def rolling(ids: Ids, width: int) -> Hashes:
    """Return the hashes ``[n - width + 1]`` of all windows of ``width`` tokens; none if ``ids`` has fewer."""
    n = len(ids)
    if n < width:
        return np.empty(0, dtype=np.uint64)
    sums = np.zeros(n + 1, dtype=np.uint64)
    np.cumsum(_scrambled(ids) * _powers(_INVERSE, n), out=sums[1:])
    return (sums[width:] - sums[:-width]) * _powers(_BASE, n)[width - 1 :]


def find(ids: Ids, known: Sequence[Ids], hashed: Sequence[Hashes], width: int) -> list[Match]:
    """Return where ``ids`` and a sequence of ``known`` agree in at least ``width`` tokens, as far as they do.

    ``hashed[i]`` are the hashes of windows of ``known[i]``: of all, or of those from its beginning on that a run must
    hold one of to be found. Where many windows are the same, only the last few are looked at.
    """
    marks = np.concatenate([np.empty(0, dtype=np.uint64), *hashed])
    windows, order = rolling(ids, width), marks.argsort(kind="stable")
    low, high = (np.searchsorted(marks[order], windows, side) for side in ("left", "right"))
    low = np.maximum(low, high - _MOST)
    # hit i: the window of ids at places[i] has the hash marks[hits[i]]
    places = np.repeat(np.arange(len(windows)), high - low)
    hits = order[np.arange(len(places)) - np.repeat((high - low).cumsum() - high, high - low)]
    owners = np.repeat(np.arange(len(hashed)), [len(each) for each in hashed])
    starts = np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(len(each)) for each in hashed)])
    # a hit one token after another one belongs to the same run
    codes = hits * (len(ids) + 1) + places
    first = ~np.isin(codes - (len(ids) + 1) - 1, codes) | (starts[hits] == 0)
    runs = {
        _grown(ids, known[owners[hit]], at, int(owners[hit]), int(starts[hit]))
        for at, hit in zip(places[first].tolist(), hits[first].tolist(), strict=True)
    }
    return sorted(run for run in runs if run.length >= width)


def apart(matches: Iterable[Match], taken: NDArray[np.bool_], shortest: int, *, whole: bool = False) -> list[Match]:
    """Return ``matches`` cut so that none overlaps another or what is ``taken``, in order; the longest come first.

    What is left of one must have ``shortest`` tokens; with ``whole`` nothing is cut: a match fits or is left out.
    """
    free, kept = ~taken, []
    for match in sorted(matches, key=lambda match: -match.length):
        begin, length = _longest_run(free[match.at : match.at + match.length])
        if length < shortest or (whole and length < match.length):
            continue
        kept.append(Match(match.at + begin, match.which, match.start + begin, length))
        free[match.at + begin : match.at + begin + length] = False
    return sorted(kept)


def _grown(ids: Ids, known: Ids, at: int, which: int, start: int) -> Match:
    """Return the common run around ``ids[at] == known[start]``; length 0 if a hash was all they had in common."""
    after = _agree(ids[at:], known[start:])
    before = _agree(ids[:at][::-1], known[:start][::-1]) if after else 0
    return Match(at - before, which, start - before, before + after)


def _agree(one: Ids, other: Ids) -> int:
    n = min(len(one), len(other))
    differ = one[:n] != other[:n]
    return int(differ.argmax()) if differ.any() else n


def _longest_run(free: NDArray[np.bool_]) -> tuple[int, int]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], free, [False]]).astype(np.int8)))
    if not len(edges):
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return int(edges[2 * longest]), int(lengths[longest])


def _scrambled(ids: Ids) -> Hashes:
    mixed = ids.astype(np.uint64) + np.uint64(_BASE)
    for shift, factor in zip((30, 27), _SCRAMBLE, strict=True):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _powers(base: int, n: int) -> Hashes:
    """Return ``base ** [0, n)`` modulo 2^64."""
    powers = np.full(n, base, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)
