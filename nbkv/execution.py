"""How nbkv runs torch: outside the modes its caller is in, and with one clear error where memory ends."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from nbkv.errors import NbkvError, OutOfMemory

_DEVICES = ("cpu", "cuda")
_WORDS = (
    "out of memory",  # CUDA, in whatever exception it comes
    "not enough memory",  # torch's host allocator, where the system names a code
    "allocate memory",  # "can't" of the same allocator, "Cannot" of the system
    "cublas_status_alloc_failed",
)


@contextmanager
def own_modes() -> Iterator[None]:
    """Within the block torch is as nbkv expects it: no inference mode or autocast, float32 and the CPU as defaults.

    What a request makes may be kept, and is read by requests under other modes. Tensors that are made in inference mode
    cannot be written outside of it; autocast and the default dtype would change the dtype of what is stored under the
    model's own; a default device would move it. Nothing is recorded for gradients. Of the default dtype torch has one a
    process: other threads see float32 meanwhile.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.no_grad())  # last of the two: leaving inference mode turns gradients on
        for kind in filter(torch.is_autocast_enabled, _DEVICES):
            stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if dtype is not torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def memory_limits(message: str) -> Iterator[None]:
    """Within the block whatever torch, Python or the system raise for lack of memory is ``OutOfMemory(message)``."""
    try:
        yield
    except Exception as error:
        if isinstance(error, NbkvError) or not lacks_memory(error):
            raise
        raise OutOfMemory(message) from error


def lacks_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that there was not enough memory, on a device or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return any(words in text for words in _WORDS)
