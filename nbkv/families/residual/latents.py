"""Latents: what a layer's K and V projections read, in the space that these projections can tell apart.

For grouped-query models a layer's input is larger than its K and V, so XQuant (arXiv 2508.10395) holds it in the joint
row space of the two projections instead, found by SVD. At full rank nothing is lost but rounding; then a latent has as
many values as K and V together, so it saves only with a lower rank or with fewer bits.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from nbkv.errors import UnsupportedModel
from nbkv.families.residual.forms import Form, kv_bytes
from nbkv.models.adapter import ModelAdapter
from nbkv.models.capture import Sides
from nbkv.models.projection.project import KVLinears, learn, project_kv, reading
from nbkv.models.walk import LayerCall

_bases: weakref.WeakKeyDictionary[nn.Module, tuple[str, torch.Tensor]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Latents:
    """One layer's projection to latents (``basis`` ``[d, r]``, orthonormal columns) and from there to K and V.

    ``up`` holds the two projections as they read latents, ``[H D, r]`` each: memory of the model's size, not of tokens.
    """

    layer: nn.Module
    feeds: KVLinears
    basis: torch.Tensor
    up: tuple[torch.Tensor, ...]

    def reading(self, keep: Callable[[torch.Tensor], None]) -> AbstractContextManager[None]:
        """Within the block ``keep`` is given the latents ``[1, n, r]`` of whatever the layer is run on."""
        return reading(self.feeds.used[0], lambda read: keep(read @ self.basis))

    def project(self, call: LayerCall, hidden: torch.Tensor, latents: torch.Tensor) -> Sides | None:
        """Return K and V ``[1, H, n, D]`` of ``latents``; ``hidden`` only has the shape of the layer's input."""
        pairs = zip(self.feeds.used, self.up, strict=True)
        replaced = {module: partial(_project, latents, up, module.bias) for module, up in pairs}
        return project_kv(self.layer, call, hidden, self.feeds, replaced)


def _project(latents: torch.Tensor, up: torch.Tensor, bias: torch.Tensor | None, _: torch.Tensor) -> torch.Tensor:
    return nn.functional.linear(latents, up, bias)


def latents(adapter: ModelAdapter, form: Form) -> list[Latents]:
    """Return the latent projections of each layer. Raises ``UnsupportedModel`` if K and V share no input."""
    assert adapter.walk is not None  # noqa: S101
    made = []
    for index, (layer, feeds) in enumerate(zip(adapter.walk.layers, learn(adapter), strict=True)):
        if kv_bytes(adapter, index) and not feeds.common:
            message = (
                f"residual(form={form.spec!r}) cannot serve {adapter.name}: layer {index} does not make K and V by two"
                " linear layers side by side, so there is no space they share (form='ids' works)"
            )
            raise UnsupportedModel(message)
        rank = form.latent_rank(adapter, index)
        basis = (_basis(layer, feeds, adapter.fingerprint)[:, :rank] if feeds.used else torch.empty(0, 0)).to(
            adapter.dtype
        )
        made.append(Latents(layer, feeds, basis, tuple(module.weight.detach() @ basis for module in feeds.used)))
    return made


def _basis(layer: nn.Module, feeds: KVLinears, weights: str) -> torch.Tensor:
    """Return the right singular vectors ``[d, r]`` of the layer's projections together, the strongest first."""
    found = _bases.get(layer)
    if found is None or found[0] != weights:
        both = torch.cat([module.weight.detach().float() for module in feeds.used])
        found = _bases[layer] = weights, torch.linalg.svd(both, full_matrices=False)[2].T.contiguous()
    return found[1]
