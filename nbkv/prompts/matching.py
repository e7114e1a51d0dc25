"""Common substrings of token sequences: rolling hashes find candidates, which are then compared token by token.

The hash of a window is a polynomial over mixed token ids, modulo 2^64 (Karp and Rabin, 1987). All windows of a sequence
are hashed at once from prefix sums: the base is odd, so it has an inverse modulo 2^64. Equal hashes are no proof: every
match that is returned was compared.
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
_MOST = 4  # known windows compared with each new one: repetitive text must not take quadratic time
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # splitmix64: plain ids would collide in regular ways


class Match(NamedTuple):
    """The ``length`` tokens from position ``at`` on equal those of known sequence ``which`` from ``start`` on."""

    at: int
    which: int
    start: int
    length: int


def rolling_hashes(ids: Ids, width: int) -> Hashes:
    """Return the hashes ``uint64 [n - width + 1]`` of all windows of ``width`` tokens of ``ids [n]``, maybe none."""
    n = len(ids)
    if n < width:
        return np.empty(0, dtype=np.uint64)
    sums = np.zeros(n + 1, dtype=np.uint64)
    np.cumsum(_mixed(ids) * _powers(_INVERSE, n), out=sums[1:])
    return (sums[width:] - sums[:-width]) * _powers(_BASE, n)[width - 1 :]


def find_matches(ids: Ids, known: Sequence[Ids], hashed: Sequence[Hashes], width: int) -> list[Match]:
    """Return the maximal common substrings, of at least ``width`` tokens, of ``ids [n]`` and each of ``known``.

    ``hashed[i]`` are the ``rolling_hashes`` of ``known[i]``, of all its windows or of its first ones: a match is found
    if it holds one of those. Of equal windows only the last 4 are compared. Matches are sorted, and may overlap.
    """
    hashes = np.concatenate([np.empty(0, dtype=np.uint64), *hashed])
    windows, order = rolling_hashes(ids, width), hashes.argsort(kind="stable")
    low, high = (np.searchsorted(hashes[order], windows, side) for side in ("left", "right"))
    low = np.maximum(low, high - _MOST)
    # hit i: the window of ids at places[i] has the hash hashes[hits[i]]
    places = np.repeat(np.arange(len(windows)), high - low)
    hits = order[np.arange(len(places)) - np.repeat((high - low).cumsum() - high, high - low)]
    owners = np.repeat(np.arange(len(hashed)), [len(each) for each in hashed])
    starts = np.concatenate([np.empty(0, dtype=np.int64), *(np.arange(len(each)) for each in hashed)])
    # a hit one token after another one belongs to the same match
    codes = hits * (len(ids) + 1) + places
    first = ~np.isin(codes - (len(ids) + 1) - 1, codes) | (starts[hits] == 0)
    matches = {
        _extended(ids, known[owners[hit]], at, int(owners[hit]), int(starts[hit]))
        for at, hit in zip(places[first].tolist(), hits[first].tolist(), strict=True)
    }
    return sorted(match for match in matches if match.length >= width)


def without_overlap(
    matches: Iterable[Match], taken: NDArray[np.bool_], shortest: int, *, whole: bool = False
) -> list[Match]:
    """Return ``matches``, sorted and cut so that none overlaps another or the positions ``taken [n]``.

    Longer matches take precedence. Of each the longest free run is kept if it has ``shortest`` tokens; with ``whole``
    only a match that is free from end to end.
    """
    free, kept = ~taken, []
    for match in sorted(matches, key=lambda match: -match.length):
        begin, length = _longest_run(free[match.at : match.at + match.length])
        if length < shortest or (whole and length < match.length):
            continue
        kept.append(Match(match.at + begin, match.which, match.start + begin, length))
        free[match.at + begin : match.at + begin + length] = False
    return sorted(kept)


def _extended(ids: Ids, known: Ids, at: int, which: int, start: int) -> Match:
    """Return the maximal match around ``ids[at]`` and ``known[start]``; of length 0 if those two tokens differ."""
    after = common_prefix(ids[at:], known[start:])
    before = common_prefix(ids[:at][::-1], known[:start][::-1]) if after else 0
    return Match(at - before, which, start - before, before + after)


def common_prefix(one: Ids, other: Ids) -> int:
    """Return how many first tokens two sequences share."""
    n = min(len(one), len(other))
    differ = one[:n] != other[:n]
    return int(differ.argmax()) if differ.any() else n


def _longest_run(free: NDArray[np.bool_]) -> tuple[int, int]:
    """Return where the longest run of True begins, and its length."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], free, [False]]).astype(np.int8)))
    if not len(edges):
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return int(edges[2 * longest]), int(lengths[longest])


def _mixed(ids: Ids) -> Hashes:
    mixed = ids.astype(np.uint64) + np.uint64(_BASE)
    for shift, factor in zip((30, 27), _MIX, strict=True):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _powers(base: int, n: int) -> Hashes:
    """Return ``base ** [0, n)`` modulo 2^64."""
    powers = np.full(n, base, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)
