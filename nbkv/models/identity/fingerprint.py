"""Who a model is: a digest of its weights, quantisation and active adapters, cheap enough to take at every load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from operator import is_
from typing import Any

import torch
from torch import nn

from nbkv.models.identity.devices import offloaded

_SAMPLES = 64  # elements read per tensor: enough that a trained, merged or re-initialised weight differs


def fingerprint(model: nn.Module) -> str:
    """Return 32 hexadecimal digits that change with weights, shapes, dtypes, quantisation or active adapters.

    Tensors are sampled at fixed places, not read whole; only what a device map keeps on disk is read, once.
    """
    digest = hashlib.sha256()
    away = {name: _samples(tensor.detach()) for name, tensor in offloaded(model)}
    for name, tensor in model.state_dict(keep_vars=True).items():
        digest.update(f"{name}{getattr(tensor, 'shape', '')}{getattr(tensor, 'dtype', '')}".encode())
        if isinstance(tensor, torch.Tensor):
            digest.update(away.get(name) or _samples(tensor.detach()))
    config: Any = getattr(model, "config", None)
    if config is not None:
        kept = {key: value for key, value in config.to_dict().items() if not key.startswith(("_", "transformers_"))}
        digest.update(json.dumps(kept, sort_keys=True, default=str).encode())
    digest.update(repr([state for module in _modules(model) if (state := _adapter(module))]).encode())
    return digest.hexdigest()[:32]


class Identity:
    """The fingerprint of one model, taken again only when something that it covers may have changed.

    ``training`` says whether any part of it is in training mode; layers that PEFT adds are, whatever the model is.
    ``taken`` counts how often the fingerprint was taken: once more after each change, also of the device alone.
    Noticed: another adapter, a parameter replaced, moved or written in place. Not noticed: values written through
    ``parameter.data``, of which torch keeps no trace.
    """

    def __init__(self, model: nn.Module) -> None:
        """Read no weights yet."""
        self._model = model
        self.training = any(module.training for module in _modules(model))
        self._parameters: list[nn.Parameter] = []  # themselves: an address may be used again after one is freed
        self._seen: object = None
        self._digest = ""
        self.taken = 0

    @property
    def digest(self) -> str:
        """Return ``fingerprint`` of the model as it is now."""
        parameters, adapters = [], []
        for module in _modules(self._model):
            parameters += [p for p in module._parameters.values() if p is not None and not p.is_meta]  # noqa: SLF001
            if state := _adapter(module):
                adapters.append(state)
        seen = (adapters, [p.data_ptr() for p in parameters], _writes(parameters))
        same = len(parameters) == len(self._parameters) and all(map(is_, parameters, self._parameters))
        if not same or seen != self._seen:
            self._digest = fingerprint(self._model)
            self.taken += 1
            self._parameters, self._seen = parameters, seen
            self.training = any(module.training for module in _modules(self._model))
        return self._digest


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yield every module, as often as it is used: ``modules()``, which sorts that out, is slow at each request."""
    waiting = [model]
    while waiting:
        module = waiting.pop()
        yield module
        waiting.extend(child for child in module._modules.values() if child is not None)  # noqa: SLF001


def _adapter(module: nn.Module) -> tuple[object, ...]:
    """Return what PEFT lets one switch in ``module`` (an adapter layer, or a wrapper); nothing for any other."""
    own = module.__dict__
    if "_active_adapter" in own or "merged_adapters" in own or "peft_config" in own:
        scaling = own.get("scaling")
        return (
            _plain(own.get("_active_adapter", own.get("active_adapter"))),
            own.get("_disable_adapters", own.get("_adapters_disabled")),
            _plain(own.get("merged_adapters")),
            tuple(scaling.items()) if isinstance(scaling, dict) else None,
        )
    return ()


def _plain(names: object) -> object:
    """Return adapter names in a form that a later change of the list does not reach."""
    return tuple(names) if isinstance(names, list) else names


def _writes(parameters: list[nn.Parameter]) -> int:
    """Return how often ``parameters`` were written in place; tensors made in inference mode do not count it."""
    try:
        return sum([p._version for p in parameters])  # noqa: SLF001  (torch's only trace of a write)
    except RuntimeError:
        return sum(p._version for p in parameters if not p.is_inference())  # noqa: SLF001


def _samples(tensor: torch.Tensor) -> bytes:
    """Return bytes of ``tensor``, or of the tensors a quantised one is made of; none where there is no data."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, how = tensor.__tensor_flatten__()
        return b"".join([repr((type(tensor).__name__, how)).encode(), *(_samples(getattr(tensor, n)) for n in names)])
    if tensor.is_meta or not tensor.numel():
        return b""
    flat = tensor.reshape(-1)
    if flat.numel() > _SAMPLES:
        flat = flat[torch.linspace(0, flat.numel() - 1, _SAMPLES, device=flat.device, dtype=torch.float64).long()]
    return flat.cpu().contiguous().view(torch.uint8).numpy().tobytes()
