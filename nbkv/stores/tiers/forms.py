"""Forms in which K/V are stored: as they are, or smaller and with an error that is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from nbkv.errors import BadOption

Tensors = dict[str, torch.Tensor]
_DTYPE = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64"}


class Form(Protocol):
    """How keys and values ``[H, T, D]`` of one layer become the tensors that are stored, and back."""

    name: str

    def pack(self, keys: torch.Tensor, values: torch.Tensor) -> Tensors:
        """Return the tensors to store, in order."""

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values made of ``tensors``."""


class AsItIs:
    """The very bits."""

    name = ""

    def pack(self, keys: torch.Tensor, values: torch.Tensor) -> Tensors:
        """Return both."""
        return {"k": keys, "v": values}

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return both."""
        return tensors["k"], tensors["v"]


_FORMS: dict[str, Form] = {form.name: form for form in (AsItIs(),)}


def form_of(name: str) -> Form:
    """Return the form called ``name`` (empty: as it is); raises ``BadOption``."""
    if name not in _FORMS:
        message = f"unknown form {name!r} (accepted: {', '.join(filter(None, _FORMS))})"
        raise BadOption(message)
    return _FORMS[name]
