"""Digests of an entry's layers, taken by threads of their own while the entry is written somewhere."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import overload

from blake3 import blake3

from nbkv.stores.tiers.head import Bytes

LARGE = 2**23  # bytes from which on threads are worth their start
BLANK = "0" * 32  # as long as every digest
_NBYTES = len(BLANK) // 2
_THREADS = 2


def digest(pieces: Sequence[Bytes]) -> str:
    """Return the digest of a layer's bytes."""
    hasher = blake3(max_threads=blake3.AUTO if sum(len(piece) for piece in pieces) > LARGE else 1)
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest(_NBYTES).hex()


class LayerDigests(Sequence[str]):
    """The digest of each of ``layers``, bytes in pieces; whoever asks for one that is not taken yet waits for it."""

    def __init__(self, layers: Sequence[Sequence[Bytes]]) -> None:
        """Take them: at once, or of many bytes from now on, two at a time."""
        self._digests: list[str | Future[str]]
        if sum(len(piece) for pieces in layers for piece in pieces) < LARGE:
            self._digests = [digest(pieces) for pieces in layers]
            return
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="nbkv-digest")
        self._digests = [pool.submit(digest, pieces) for pieces in layers]
        pool.shutdown(wait=False)

    @overload
    def __getitem__(self, layer: int) -> str: ...
    @overload
    def __getitem__(self, layer: slice) -> Sequence[str]: ...
    def __getitem__(self, layer: int | slice) -> str | Sequence[str]:
        """Return the digest of ``layer``, or of each in a slice."""
        if isinstance(layer, slice):
            return [self[number] for number in range(*layer.indices(len(self)))]
        found = self._digests[layer]
        return found if isinstance(found, str) else found.result()

    def __len__(self) -> int:
        """Return how many layers there are."""
        return len(self._digests)

    def __eq__(self, other: object) -> bool:
        """Return whether ``other`` says the same of each layer, taken or read."""
        return isinstance(other, (LayerDigests, tuple)) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        """Return that of the digests."""
        return hash(tuple(self))
