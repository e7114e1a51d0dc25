"""Who a model is: a digest of its weights, quantisation and active adapters, cheap enough to take at every load."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import nn

_SAMPLES = 64  # elements read per tensor: enough that a trained, merged or re-initialised weight differs


def fingerprint(model: nn.Module) -> str:
    """Return 32 hexadecimal digits that change with weights, shapes, dtypes, quantisation or active adapters.

    Tensors are sampled at fixed places, not read whole; tensors without data here (offloaded) count by name and shape.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict(keep_vars=True).items():
        digest.update(f"{name}{getattr(tensor, 'shape', '')}{getattr(tensor, 'dtype', '')}".encode())
        if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta" and tensor.numel():
            digest.update(_sample(tensor.detach()))
    config: Any = getattr(model, "config", None)
    if config is not None:
        kept = {key: value for key, value in config.to_dict().items() if not key.startswith(("_", "transformers_"))}
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
    digest.update(repr(_adapters(model)).encode())
    return digest.hexdigest()[:32]


def version(model: nn.Module) -> int:
    """Return a number that changes when a weight is written in place or another adapter is switched on."""
    writes = 0
    for module in model.modules():
        for parameter in module._parameters.values():  # noqa: SLF001  (asked at every request: parameters() is slow)
            writes += 0 if parameter is None else parameter._version + 1  # noqa: SLF001  (torch's only trace of a write)
    return hash((writes, _adapters(model)))


def _adapters(model: nn.Module) -> tuple[str, ...]:
    """Return the state of every adapter layer that PEFT put into ``model``."""
    names = ("_active_adapter", "_disable_adapters", "merged_adapters")
    return tuple(
        repr([module.__dict__.get(name) for name in names])
        for module in model.modules()
        if "_active_adapter" in module.__dict__ or "merged_adapters" in module.__dict__
    )


def _sample(tensor: torch.Tensor) -> bytes:
    flat = tensor.reshape(-1)
    if flat.numel() > _SAMPLES:
        flat = flat[torch.linspace(0, flat.numel() - 1, _SAMPLES, device=flat.device, dtype=torch.float64).long()]
    if flat.dtype in {torch.bool, torch.uint8, torch.int8}:
        return flat.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    if flat.is_floating_point():
        return flat.to(torch.float64).cpu().numpy().tobytes()
    return flat.cpu().contiguous().numpy().tobytes()
