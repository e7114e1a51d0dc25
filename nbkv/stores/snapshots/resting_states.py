"""State checkpoints of recurrent layers as snapshots, packed with the golden token that their readers run again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from nbkv.stores.snapshots.base import FoundSnapshot, LayerTensors
from nbkv.stores.state_checkpoints import GoldenToken, StateCheckpoint

STATES = "states"  # the kind of these snapshots


@dataclass(frozen=True, eq=False)
class RestingStates:
    """States after ``at`` tokens as a tier had them, on the CPU; implements ``StateSnapshot``."""

    at: int
    layers: tuple[dict[tuple[str, int], torch.Tensor], ...]
    shell: None = None

    @cached_property
    def nbytes(self) -> int:
        """Return the bytes of all tensors."""
        return sum(state.nbytes for layer in self.layers for state in layer.values())


def pack(checkpoint: StateCheckpoint) -> list[LayerTensors] | None:
    """Return ``checkpoint`` as a snapshot's layers; None where it has no golden token, or lies in a family's object."""
    golden, states = checkpoint.golden, checkpoint.states
    if golden is None or states.shell is not None:
        return None
    layers: list[LayerTensors] = [
        {f"{kind}.{number}": state for (kind, number), state in layer.items()} for layer in states.layers
    ]
    proof = {
        "token": torch.tensor([golden.token]),
        "logits": golden.logits.float(),
        "flops": torch.tensor([checkpoint.flops], dtype=torch.float64),
    }
    return [*layers, proof]


def unpack(found: FoundSnapshot) -> StateCheckpoint:
    """Return the checkpoint that ``found`` is, on the CPU."""
    *layers, proof = found.layers
    states = tuple({(kind, int(number)): state for (kind, number), state in _named(layer)} for layer in layers)
    golden = GoldenToken(int(proof["token"]), proof["logits"])
    return StateCheckpoint(RestingStates(found.stop, states), float(proof["flops"]), golden)


def _named(layer: LayerTensors) -> list[tuple[tuple[str, str], torch.Tensor]]:
    return [((name.rpartition(".")[0], name.rpartition(".")[2]), state) for name, state in layer.items()]
