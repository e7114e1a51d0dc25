"""``project_kv`` by one kernel, for layers that make K and V of their input in the usual way and in no other.

That way is RMSNorm, two linear layers side by side (with biases or not), perhaps an RMSNorm over each key head, rotary
halves over whole key heads (KV-Direct, arXiv 2603.19664; HCache, arXiv 2410.05004). ``fusing`` finds out which layers
do that. Others, and layers that somebody listens to by hooks, are left to their own code (``projection``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from nbkv.models.capture import Sides
from nbkv.models.walk import LayerCall
from nbkv.ops import Projection, project_kv

ANGLES = "it is not given rotary angles for whole key heads"
BARE = "its modules have hooks, or forwards of somebody else's"


class KVRoute(Protocol):
    """How K and V of a layer may be made without running it."""

    def project(self, call: LayerCall, hidden: torch.Tensor, target: Sides) -> str:
        """Write K and V of ``hidden`` ``[1, n, d]`` over ``target`` ``[1, H, n, D]``; or write nothing, return why."""


class KernelUnfit(Exception):
    """The kernel does not do what the layer does: raised where that is found, and kept as the layer's route."""

    def __init__(self, why: str) -> None:
        """Keep the reason."""
        super().__init__(why)
        self.why = why

    def project(self, call: LayerCall, hidden: torch.Tensor, target: Sides) -> str:  # noqa: ARG002
        """Write nothing."""
        return self.why


@dataclass(frozen=True, eq=False)
class FusedProjection:
    """The modules between a layer's input and its K and V; their weights are read when they are used.

    ``passed`` are all modules that the layer enters on the way. ``offset`` is what its norms add to their weights.
    """

    passed: tuple[nn.Module, ...]
    norm: nn.Module
    k: nn.Linear
    v: nn.Linear
    k_norm: nn.Module | None
    offset: float = 0.0

    @torch.inference_mode()
    def project(self, call: LayerCall, hidden: torch.Tensor, target: Sides) -> str:
        """Write K and V of ``hidden`` ``[1, n, d]`` over ``target`` ``[1, H, n, D]``; or write nothing, return why."""
        try:
            check_bare(self.passed)
            turn = angles(call, target[0])
        except KernelUnfit as unfit:
            return unfit.why
        project_kv(hidden[0], self.weights, turn, (target[0][0], target[1][0]))
        return ""

    @property
    def weights(self) -> Projection:
        """Return the weights as they are now."""
        return Projection(
            norm=_weight(self.norm),
            eps=eps(self.norm),
            k=self.k.weight,
            v=self.v.weight,
            k_bias=self.k.bias,
            v_bias=self.v.bias,
            k_norm=None if self.k_norm is None else _weight(self.k_norm),
            offset=self.offset,
        )


def check_bare(modules: Sequence[nn.Module]) -> None:
    """Raise ``KernelUnfit`` unless all are run by their class's forward and nobody listens."""
    for module in modules:
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):  # noqa: SLF001
            raise KernelUnfit(BARE)


def angles(call: LayerCall, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return cosine and sine ``[n, D / 2]`` as the model gives them for ``keys`` ``[1, H, n, D]``.

    Raises ``KernelUnfit``. Both carry the factor that some families (YaRN) put on attention.
    """
    given, shape = call.kwargs.get("position_embeddings"), (1, *keys.shape[-2:])
    if not isinstance(given, tuple) or [getattr(part, "shape", None) for part in given] != [shape, shape]:
        raise KernelUnfit(ANGLES)
    cos, sin = given
    half = keys.shape[-1] // 2
    return cos[0, :, :half], sin[0, :, :half]


def eps(norm: nn.Module) -> Any:  # noqa: ANN401  (a float, if it is a norm)
    """Return what ``norm`` adds to the mean square, by the names it has in the families."""
    return getattr(norm, "variance_epsilon", getattr(norm, "eps", None))


def _weight(norm: nn.Module) -> torch.Tensor:
    assert isinstance(norm.weight, torch.Tensor)  # noqa: S101  (a module is no norm without)
    return norm.weight
