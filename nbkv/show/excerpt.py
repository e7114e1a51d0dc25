"""Which tokens of a long prompt are shown as text: whole runs where there is room, else their ends."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

ENDS = (200, 100, 50, 25, 12)  # tokens that stay at each end of a long run
LABELLED = 12  # tokens in a run


@dataclass(frozen=True)
class TokenRun:
    """Neighbouring tokens ``[start, stop)`` of one source, in one ``chunk`` or none, all of them dropped or none."""

    start: int
    stop: int
    source: str
    chunk: str = ""
    dropped: bool = False

    def within(self, start: int, stop: int) -> TokenRun:
        """Return what of it lies in ``[start, stop)``."""
        return TokenRun(max(self.start, start), min(self.stop, stop), self.source, self.chunk, self.dropped)


def shown(of: Sequence[TokenRun], sizes: Sequence[int], most: int, tag: int = 0) -> list[tuple[int, int]]:
    """Return the spans of the prompt whose text is shown in ``most`` bytes, of tokens of these ``sizes``.

    Each run takes ``tag`` bytes more. Of long runs the middle goes first; where that is not enough, the middle of the
    prompt.
    """
    until = [0, *accumulate(sizes)]
    n = len(sizes)

    def cost(ranges: Sequence[tuple[int, int]]) -> int:
        return sum(until[stop] - until[start] for start, stop in ranges)

    def ends(most_tokens: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for run in of:
            whole = run.stop - run.start <= 2 * most_tokens + LABELLED
            head, tail = (run.start, run.start + most_tokens), (run.stop - most_tokens, run.stop)
            parts = [(run.start, run.stop)] if whole else [head, tail]
            for start, stop in parts:
                if found and found[-1][1] == start:
                    found[-1] = (found[-1][0], stop)
                else:
                    found.append((start, stop))
        return found

    room = most - tag * len(of)
    if room >= until[n]:
        return [(0, n)]
    for most_tokens in ENDS:
        if cost(ranges := ends(most_tokens)) <= room:
            return ranges
    marks = [0] * n
    for run in of:
        marks[run.start] = tag
    front = _fitting([size + mark for size, mark in zip(sizes, marks, strict=True)], most // 2)
    back = _fitting([size + mark for size, mark in zip(sizes[::-1], marks[::-1], strict=True)], most // 2)
    return [(0, front), (max(front, n - back), n)]


def _fitting(sizes: Sequence[int], room: int) -> int:
    """Return how many of the first ``sizes`` sum up to at most ``room``."""
    return bisect_right(list(accumulate(sizes)), room)
