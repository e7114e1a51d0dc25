"""Forms in which K/V are stored: as they are, or smaller and with an error that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from nbkv.errors import BadOption

Tensors = dict[str, torch.Tensor]
_DTYPE = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64"}


class StorageForm(Protocol):
    """How keys and values ``[H, T, D]`` of one layer become the tensors that are stored, and back."""

    name: str
    every_token: bool  # whether K/V of all tokens are there again, if with an error

    def pack(self, keys: torch.Tensor, values: torch.Tensor) -> Tensors:
        """Return the tensors to store, in order."""

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values made of ``tensors``."""


class AsItIs:
    """The very bits."""

    name = ""
    every_token = True

    def pack(self, keys: torch.Tensor, values: torch.Tensor) -> Tensors:
        """Return both."""
        return {"k": keys, "v": values}

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both."""
        return tensors["k"], tensors["v"]


class Scaled:
    """Numbers of one byte, and scales in the dtype of the K/V: one a channel for keys, one a token for values.

    Keys have channels that are large at every token, values have not (KIVI, arXiv 2402.02750, section 3.1).
    """

    every_token = True

    def __init__(self, name: str, dtype: torch.dtype, most: float) -> None:
        """Scale so that the largest number of a channel or token becomes ``most`` in ``dtype``."""
        self.name, self._dtype, self._most = name, dtype, most

    def pack(self, keys: torch.Tensor, values: torch.Tensor) -> Tensors:
        """Return scales and numbers of both; a layer without heads as it is."""
        if not keys.numel():
            return {"k": keys, "v": values}
        k, v = self._scale(keys, -2), self._scale(values, -1)
        return {"k.scale": k, "v.scale": v, "k": self._numbers(keys, k), "v": self._numbers(values, v)}

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the numbers times their scales, in the dtype of these."""
        if "k.scale" not in tensors:
            return tensors["k"], tensors["v"]
        k, v = ((tensors[name].float() * tensors[f"{name}.scale"].float()) for name in ("k", "v"))
        return k.to(tensors["k.scale"].dtype), v.to(tensors["v.scale"].dtype)

    def _scale(self, values: torch.Tensor, over: int) -> torch.Tensor:
        scale = values.float().abs().amax(over, keepdim=True) / self._most
        least = torch.finfo(values.dtype).tiny
        return scale.clamp(min=least).to(values.dtype)

    def _numbers(self, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        numbers = (values.float() / scale.float()).clamp(-self._most, self._most)
        return (numbers if self._dtype.is_floating_point else numbers.round()).to(self._dtype)


class Dropped(AsItIs):
    """Only what a strategy has left of a sequence: the slots of its most important tokens, as they are.

    K/V of all tokens are never stored in it, so that no exact strategy finds anything there.
    """

    name = "kvzip"
    every_token = False


def error(form: StorageForm, keys: torch.Tensor, values: torch.Tensor) -> float:
    """Return how far ``form`` moves one layer's K/V: the norm of the difference over that of K, or of V if larger."""
    if form.name == "" or not keys.numel():
        return 0.0
    pairs = zip((keys, values), form.unpack(form.pack(keys, values)), strict=True)
    moved = [(float((a.float() - b.float()).norm()), float(a.float().norm())) for a, b in pairs]
    return max(by / norm if norm else 0.0 for by, norm in moved)


_KNOWN: tuple[StorageForm, ...] = (
    AsItIs(),
    Scaled("int8", torch.int8, 127),
    Scaled("fp8", torch.float8_e4m3fn, 448),
    Dropped(),
)
_FORMS = {form.name: form for form in _KNOWN}


def form_of(name: str) -> StorageForm:
    """Return the form called ``name`` (empty: as it is); raises ``BadOption``."""
    if name not in _FORMS:
        message = f"unknown form {name!r} (accepted: {', '.join(filter(None, _FORMS))})"
        raise BadOption(message)
    return _FORMS[name]
