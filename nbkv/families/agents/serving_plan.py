"""What is to become of a prompt: the gate's decisions about its slots, and the K/V to place if all are accepted."""

from __future__ import annotations

from dataclasses import dataclass, field

from nbkv.families.agents.anchors import Slot
from nbkv.families.agents.gate import GateDecision
from nbkv.families.agents.offsets import Neighbours
from nbkv.families.blend.layerwise import SpanKV
from nbkv.models.work import Work


@dataclass(frozen=True, eq=False, kw_only=True)
class SlotKV(SpanKV):
    """The K/V to place for ``slot``: those it has alone (``alone``) with approximated offsets added.

    ``encoded``: what it has alone was computed for this prompt.
    """

    slot: Slot
    near: Neighbours
    encoded: bool


@dataclass(frozen=True, eq=False)
class ServingPlan:
    """The gate's ``decisions`` about a prompt, and what is placed at its ``slots`` if all of them are accepted."""

    slots: tuple[Slot, ...] = ()
    decisions: tuple[GateDecision, ...] = ()
    placed: tuple[SlotKV, ...] = ()
    work: Work = field(default_factory=Work)

    @property
    def refused(self) -> list[GateDecision]:
        """Return the decisions that keep the prompt from being reused."""
        return [each for each in self.decisions if not each.accepted]

    @property
    def measures(self) -> bool:
        """Return whether the prompt is computed in full to measure reuse, and for no other reason."""
        return any(each.measure for each in self.refused) and len(self.placed) == len(self.slots)
