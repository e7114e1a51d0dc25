"""What can go wrong, as the builtin exceptions callers expect; messages say what was given and what is accepted."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

_WORDS = (
    "out of memory",  # CUDA, in whatever exception it comes
    "not enough memory",  # torch's host allocator, where the system names a code
    "allocate memory",  # "can't" of the same allocator, "Cannot" of the system
    "cublas_status_alloc_failed",
)


class NbkvError(Exception):
    """Parent of every error nbkv raises on purpose; its text is one plain line."""

    def __str__(self) -> str:
        """Return the message alone (``KeyError`` would quote it)."""
        return " ".join(str(argument) for argument in self.args)


class UnknownName(NbkvError, KeyError):
    """A model, strategy, session or chunk name that nothing is registered under."""


class LoadError(NbkvError, OSError):
    """A model that cannot be read: missing folder, unreachable hub id, unreadable weights."""


class UnsupportedModel(NbkvError, TypeError):
    """A model that lacks what a strategy needs, or that failed its self-check."""


class BadPrompt(NbkvError, ValueError):
    """A prompt that cannot be run: empty, too long, a foreign chunk, an unknown ``{{ name }}``."""


class BadOption(NbkvError, ValueError):
    """An option that does not exist or whose value is out of range."""


class StoreFull(NbkvError, OSError):
    """A store that cannot hold what has to stay in it."""


class StoreUnavailable(NbkvError, OSError):
    """A store that does not answer."""


class OutOfMemory(NbkvError, MemoryError):
    """The device has not enough memory for this request."""


def closest(name: str, known: list[str]) -> str:
    """Return ``' did you mean X?'`` for a near miss among ``known``, else an empty string."""
    from difflib import get_close_matches  # noqa: PLC0415  (only on the error path)

    near = get_close_matches(name, known, n=1)
    return f", did you mean {near[0]!r}?" if near else ""


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
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    text = str(error).lower()
    return any(words in text for words in _WORDS)
