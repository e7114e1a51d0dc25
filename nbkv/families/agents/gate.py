"""The gate: whether a text at a place is reused with approximated offsets, or the prompt is computed in full.

KVCOMM (arXiv 2510.12872) computes in full where fewer than two anchors are as long as the text, or where the entropy of
their weights is above ``gamma log2 M``: no anchor stands out, and the text had better become one itself. Entropy says
how well the text is known, not whether offsets help, nor how far off an answer will be. Both are measured. Each anchor
is left out in turn and its offsets approximated from the others: where that is no nearer to them than no offsets at
all, which is naive reuse, the place is refused. And on prompts computed in full the answer is followed a second time
over K/V as they would have been reused: the mean KL of the last ones is bounded, and so is that of each token at which
another one would have been said. A mean alone hides the one wrong word that a task fails for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean

from nbkv.families.agents.anchors import Anchor, Slot
from nbkv.families.agents.offsets import LEAST, Alignment, Neighbours, explained

_RECENT = 8  # measured prompts at a place whose mean counts
_MEASURED = 2  # of them there are before anything is reused
_AGAIN = 16  # prompts served at a place after which it is measured again
_SELDOM = 4  # where reuse is refused for its KL, the newest so many anchors go unmeasured before one is measured again


@dataclass(frozen=True)
class GateDecision:
    """What became of the text in rows ``[start, stop)``, the slot of chunk ``name``.

    ``anchors`` are those long enough at its place, ``entropy`` and ``bound`` bits (None: not looked at), ``kl`` the
    mean that was measured there in nats, ``explained`` the share of an anchor's offsets that the others get right
    (``offsets.explained``; None: not known). ``why`` it is refused, "" where it is not; ``measure``: this prompt is to
    tell the KL of reuse.
    """

    name: str
    start: int
    stop: int
    anchors: int
    entropy: float | None = None
    bound: float | None = None
    kl: float | None = None
    explained: float | None = None
    why: str = ""
    measure: bool = False

    @property
    def accepted(self) -> bool:
        """Return whether the text is reused, if all others of its prompt are."""
        return not self.why

    def __str__(self) -> str:
        """Return the decision in a few words."""
        bits = "" if self.entropy is None else f", entropy {self.entropy:.2f} below {self.bound:.2f} bits"
        kl = "" if self.kl is None else f", KL {self.kl:.2g}"
        known = "" if self.explained is None else f", offsets {100 * self.explained:.0f} % explained"
        return self.why or f"{self.name} by {self.anchors} anchors{bits}{kl}{known}"


@dataclass(frozen=True)
class Gate:
    """Lets a text through whose weights have an entropy below ``gamma log2 M`` and, at its place, KL <= ``max_kl``.

    That is the mean over answers, and the KL at any token that reuse would have changed. And where more than ``least``
    of an anchor's offsets are explained by others. ``least`` or ``max_kl`` None: that is not asked, as in the paper.
    """

    gamma: float
    max_kl: float | None
    alignment: Alignment
    least: float | None = None

    def unknown(self, slot: Slot, anchors: Sequence[Anchor]) -> GateDecision | None:
        """Return the refusal of ``slot`` where too few of the ``anchors`` at its place are long enough; else None."""
        enough, (start, stop) = self.alignment.long_enough(slot.span.length, anchors), slot.span
        if len(enough) >= LEAST:
            return None
        name = slot.chunk.name
        why = f"{name} has {len(enough)} of {LEAST} anchors long enough at its place ({len(anchors)} in all)"
        return GateDecision(name, start, stop, len(enough), why=why)

    def decide(self, slot: Slot, near: Neighbours, anchors: Sequence[Anchor]) -> GateDecision:
        """Return the decision about ``slot``, whose text has neighbours ``near`` among the ``anchors`` at its place."""
        enough = self.alignment.long_enough(slot.span.length, anchors)
        entropy, bound = near.entropy, self.gamma * log2(len(enough))
        measured = [anchor.kl for anchor in anchors if anchor.kl is not None][-_RECENT:]
        kl, name = fmean(measured) if measured else None, slot.chunk.name
        changed = [anchor.changed for anchor in anchors if anchor.kl is not None][-_RECENT:]
        why, measure, known = "", False, explained(anchors)
        if entropy >= bound:
            why = f"{name}: entropy {entropy:.2f} of {len(enough)} anchors' weights is not below {bound:.2f} bits"
        elif self.least is not None and known is None:
            why = f"{name}: too few anchors at its place were compared with others to tell whether offsets help"
        elif self.least is not None and known is not None and known <= self.least:
            why = f"{name}: an anchor's offsets are explained to {known:.0%} by the others, not above {self.least:.0%}"
        elif self.max_kl is not None:
            if kl is None or len(measured) < _MEASURED:
                why, measure = f"{name}: the KL of reuse at its place is measured first", True
            elif kl > self.max_kl or max(changed) > self.max_kl:
                why = f"{name}: the KL of reuse measured at its place is {kl:.2g}, above {self.max_kl:g}"
                if kl <= self.max_kl:
                    words = sum(each > self.max_kl for each in changed)
                    why = f"{name}: reuse would have changed {words} of {len(changed)} answers measured at its place"
                    why += f" (by a KL of {max(changed):.2g}, above {self.max_kl:g})"
                measure = all(anchor.kl is None for anchor in anchors[-_SELDOM:])
            elif min(anchor.age for anchor in anchors) >= _AGAIN:
                why, measure = f"{name}: the KL of reuse at its place is measured again", True
        start, stop = slot.span
        return GateDecision(name, start, stop, len(enough), entropy, bound, kl, known, why, measure)
