"""Whether passes that reuse attention pay: every pass is timed, and what is known decides before each block.

A pass is *plain* (the model's own attention), *refreshed* (everything computed, in two parts, and kept) or *reused*.
Plain passes are what reuse has to beat. Where too little is known, blocks that begin plain and blocks that do not take
turns: all of their passes do useful work, so finding out costs next to nothing. Now and then a block does the same
later, since what a pass costs may change.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PLAIN, REFRESHED, REUSED = "plain", "refreshed", "reused"
ON, OFF, PLAIN_FIRST = "on", "off", "plain first"
_RULE, _TURN = "rule", "turn"
_ENOUGH = 3  # passes of a kind after which its time is known
_TRIAL = 16  # passes after which reuse that never came up is not waited for
_KEPT = {PLAIN: 8, REFRESHED: 8, REUSED: 8, _RULE: 64, _TURN: 1}  # latest passes that a figure is about
_ON_AGAIN, _PLAIN_AGAIN = 32, 8  # blocks after which a decision is looked at again
_STEPS = 2  # sizes of context that are told apart for each doubling


@dataclass(eq=False)
class PassTimes:
    """The latest seconds of each kind of pass, and whether the refresh rule would reuse, for each size of context."""

    figures: dict[str, deque[float]] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Mapping[str, Sequence[float]] | None) -> PassTimes:
        """Return the times that ``to_dict`` gave."""
        return cls({name: deque(values, _KEPT[name.split("@")[0]]) for name, values in (data or {}).items()})

    def to_dict(self) -> dict[str, list[float]]:
        """Return the times as JSON-able data."""
        return {name: list(values) for name, values in self.figures.items()}

    def add(self, kind: str, context: int, figure: float) -> None:
        """Count one pass with ``context`` tokens before its block."""
        self.figures.setdefault(_name(kind, context), deque(maxlen=_KEPT[kind])).append(figure)

    def get(self, kind: str, context: int) -> Sequence[float]:
        """Return what is known of one kind."""
        return self.figures.get(_name(kind, context), ())

    def seconds(self, kind: str, context: int) -> float:
        """Return the least seconds of one kind of pass, since a busy machine only adds time; infinite if unknown."""
        return min(self.get(kind, context), default=math.inf)


@dataclass(eq=False)
class ReuseSwitch:
    """Decides block by block whether attention is reused: it must make passes ``least`` times as fast.

    ``least`` 0 asks for no gain: it is always reused.
    """

    times: PassTimes
    least: float

    def begin(self, context: int) -> str:
        """Return whether reuse is ``on`` for the next block, ``off``, or ``plain first``: on after one plain pass."""
        if not self.least:
            return ON
        turn = int(next(iter(self.times.get(_TURN, context)), 0)) + 1
        self.times.add(_TURN, context, turn)
        if not self.known(context):
            return PLAIN_FIRST if turn % 2 else ON
        if self.speedup(context) >= self.least:
            return ON if turn % _PLAIN_AGAIN else PLAIN_FIRST
        return OFF if turn % _ON_AGAIN else ON

    def share(self, context: int) -> float:
        """Return the share of the latest passes that the refresh rule would reuse."""
        asked = self.times.get(_RULE, context)
        return sum(asked) / len(asked) if asked else 0.0

    def asked(self, context: int, *, reuse: bool) -> None:
        """Note what the refresh rule asks for in a pass, whether it is followed or not."""
        self.times.add(_RULE, context, float(reuse))

    def known(self, context: int) -> bool:
        """Return whether all kinds of passes that come up here have been timed."""
        never = len(self.times.get(_RULE, context)) >= _TRIAL and not self.share(context)
        kinds = (PLAIN, REFRESHED) if never else (PLAIN, REFRESHED, REUSED)
        return all(len(self.times.get(kind, context)) >= _ENOUGH for kind in kinds)

    def speedup(self, context: int) -> float:
        """Return the seconds of a plain pass over those of a mean pass with reuse."""
        share, refreshed = self.share(context), self.times.seconds(REFRESHED, context)
        reused = self.times.seconds(REUSED, context) if share else 0.0
        return self.times.seconds(PLAIN, context) / (share * reused + (1 - share) * refreshed)


def _name(kind: str, context: int) -> str:
    return f"{kind}@{round(_STEPS * math.log2(max(1, context)))}"
