"""Where a prompt parts from an earlier sequence and meets it again, and what the difference is."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from nbkv.misses import Cause
from nbkv.prompts.matching import Match
from nbkv.session.misses.past import Seen, overlaps

Pieces = Callable[[Sequence[int]], Sequence[str]]

_EDIT = 48  # tokens of the longest difference that counts as an edit: beyond it, text was moved
_MARKS = re.compile(r"</?(?:think|thinking|thought|reasoning|analysis)>|\[/?THINK\]|<\|channel\|>analysis")


@dataclass(frozen=True)
class Difference:
    """The tokens ``new`` of a prompt stand where an earlier sequence had ``old``; behind them, from ``at`` on,
    ``length`` tokens are the same in both.
    """  # noqa: D205  (one sentence)

    old: tuple[int, int]
    new: tuple[int, int]
    at: int
    length: int
    crossed: bool

    def kind(self, seen: Seen, own: Seen, was: str, now: str, pieces: Pieces) -> Cause | None:
        """Return what made the difference between ``seen`` and ``own``, whose texts are ``was`` and ``now``.

        None where so much differs that what follows is rather the same text at another place.
        """
        if len(_MARKS.findall(was)) > len(_MARKS.findall(now)):
            return Cause.THINKING
        if self._written_by_template(seen, own, pieces):
            return Cause.TEMPLATE
        widths = (self.old[1] - self.old[0], self.new[1] - self.new[0])
        return Cause.EDITED if not self.crossed and max(widths) <= _EDIT else None

    def _written_by_template(self, seen: Seen, own: Seen, pieces: Pieces) -> bool:
        if own.said is None or seen.said is None:
            return False
        before = [(seen.prompt, len(seen.ids)), *spoken(seen.ids, seen.said, pieces)]
        return not (overlaps(spoken(own.ids, own.said, pieces), *self.new) or overlaps(before, *self.old))


def spoken(ids: Sequence[int], said: Sequence[str], pieces: Pieces) -> list[tuple[int, int]]:
    """Return the token spans of ``ids`` in which the texts of its messages stand, one after the other.

    Space does not count: tokenizers write it in many ways. A text that the template wrote otherwise is left out.
    """
    texts = ["".join(piece.split()) for piece in pieces(ids)]
    ends = list(accumulate(map(len, texts)))
    whole, at, found = "".join(texts), 0, []
    for text in ("".join(each.split()) for each in said):
        start = whole.find(text, at) if text else -1
        if start >= 0:
            at = start + len(text)
            found.append((bisect_right(ends, start), bisect_left(ends, at) + 1))
    return found


def differences(common: int, hits: Sequence[Match]) -> Iterator[Difference]:
    """Yield the differences of a prompt to a sequence whose first ``common`` tokens it shares, in order.

    ``hits`` are what the two share: of those the largest set is followed in which both go forward, longest first.
    """
    chain: list[Match] = []
    behind = [hit for hit in hits if hit.at >= common or hit.at + hit.length > common]
    for hit in sorted(behind, key=lambda hit: -hit.length):
        cut = max(0, common - hit.at, common - hit.start)
        if cut < hit.length and all(_in_order(hit, other) for other in chain):
            chain.append(Match(hit.at + cut, hit.which, hit.start + cut, hit.length - cut))
    at, start = common, common
    for hit in sorted(chain):
        if hit.at >= at and hit.start >= start and (hit.at > at or hit.start > start):
            rest = [other for other in behind if not any(other.at <= one.at < other.at + other.length for one in chain)]
            crossed = any(_covers(other.start, other.length, start, hit.start) for other in rest) or any(
                _covers(other.at, other.length, at, hit.at) for other in rest
            )
            yield Difference((start, hit.start), (at, hit.at), hit.at, hit.length, crossed)
        at, start = hit.at + hit.length, hit.start + hit.length


def _covers(at: int, length: int, start: int, stop: int) -> bool:
    """Return whether ``length`` tokens from ``at`` on are at least half of ``[start, stop)``."""
    return 2 * (min(stop, at + length) - max(start, at)) >= stop - start > 0


def _in_order(one: Match, other: Match) -> bool:
    """Return whether two matches follow each other in both sequences, or are one."""
    if one == other:
        return True
    first, second = sorted((one, other))
    return first.at + first.length <= second.at and first.start + first.length <= second.start
