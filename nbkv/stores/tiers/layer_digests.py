"""Digests of an entry's layers: of which kind, and taken piece by piece, or by threads while the entry is written.

Where heads are sealed with a key, a layer's digest is BLAKE3's: nobody can make other bytes that have it. Without a key
whoever may write can make whole entries anyway, and a digest is there for accidents alone: XXH3 of 128 bits is as good
at that, and takes a third of the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import overload

from blake3 import blake3
from xxhash import xxh3_128

from nbkv.stores.tiers.head import BLAKE3, XXH3, Bytes

LARGE = 2**23  # bytes from which on threads are worth their start
_NBYTES = 16
_THREADS = 2


class LayerDigest:
    """The digest of bytes that come in pieces, of ``kind``: text that begins with the kind."""

    def __init__(self, kind: str) -> None:
        """Begin with no bytes."""
        self._kind = kind
        self._hasher = xxh3_128() if kind == XXH3 else blake3()
        self.nbytes = 0

    def add(self, piece: memoryview) -> None:
        """Go on with ``piece``, bytes."""
        self._hasher.update(piece)
        self.nbytes += piece.nbytes

    def __str__(self) -> str:
        """Return the digest of the bytes so far."""
        return self._kind + self._hasher.digest()[:_NBYTES].hex()


def blank(kind: str) -> str:
    """Return a text as long as every digest of ``kind``."""
    return kind + "00" * _NBYTES


def kind_of(digest: str) -> str:
    """Return of which kind ``digest`` is."""
    return XXH3 if digest.startswith(XXH3) else BLAKE3


def digest(pieces: Iterable[Bytes], kind: str) -> str:
    """Return the digest of a layer's bytes."""
    found = LayerDigest(kind)
    for piece in pieces:
        found.add(memoryview(piece).cast("B"))
    return str(found)


class LayerDigests(Sequence[str]):
    """The digest of each of ``layers``, bytes in pieces; whoever asks for one that is not taken yet waits for it."""

    def __init__(self, layers: Sequence[Sequence[Bytes]], kind: str) -> None:
        """Take them: at once, or of many bytes from now on, two at a time."""
        self._digests: list[str | Future[str]]
        if sum(len(piece) for pieces in layers for piece in pieces) < LARGE:
            self._digests = [digest(pieces, kind) for pieces in layers]
            return
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="nbkv-digest")
        self._digests = [pool.submit(digest, pieces, kind) for pieces in layers]
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
