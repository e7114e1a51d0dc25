"""Memory that ends, on a device or on the host: one clear error, whatever torch, Python or the system raise."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nbkv.errors import NbkvError, OutOfMemory

_WORDS = (
    "out of memory",  # CUDA, in whatever exception it comes
    "not enough memory",  # torch's host allocator, where the system names a code
    "allocate memory",  # "can't" of the same allocator, "Cannot" of the system
    "cublas_status_alloc_failed",
)


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
