"""Torch as this package expects it, whatever mode the caller is in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch

_CPU = torch.device("cpu")
_AUTOCAST = ("cpu", "cuda")


@contextmanager
def usual_mode() -> Iterator[None]:
    """Within the block torch is in its usual mode: tensors are float32 on the CPU unless told otherwise, and ordinary.

    What is made while a caller is in inference mode, under autocast, or with another default dtype or device would
    outlive that: K/V in a store, tables and buffers of the model are used by later requests.
    """
    unusual = list(_unusual())
    if not unusual:
        yield
        return
    with ExitStack() as stack:
        for mode in unusual:
            stack.enter_context(mode)
        yield


def _unusual() -> Iterator[AbstractContextManager[object]]:
    """Yield what undoes each mode that the caller is in; most are in none, so looking must cost nothing."""
    made = torch.empty(0)
    if made.is_inference():
        yield torch.inference_mode(mode=False)
    elif not torch.is_grad_enabled():
        yield torch.enable_grad()
    for kind in _AUTOCAST:
        if torch.is_autocast_enabled(kind):
            yield torch.autocast(kind, enabled=False)
    if made.dtype != torch.float32:
        yield _default_dtype()
    if made.device != _CPU:
        yield _CPU


@contextmanager
def _default_dtype() -> Iterator[None]:
    given = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(given)
