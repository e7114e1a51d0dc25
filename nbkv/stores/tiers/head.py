"""The head of an entry: everything that must match, a digest of every layer, and a seal over it all.

What does not fit its seal, or contradicts itself, is ``Damaged``.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import torch
from blake3 import blake3

from nbkv.kv import Space
from nbkv.stores.tiers.key import EntryKey, mark_positions

Bytes = bytes | bytearray | memoryview

BLAKE3, XXH3 = "", "xxh3:"  # kinds of a layer's digest: what its text begins with
_PLAIN, _VERSION = 1, 2  # files whose digests are all BLAKE3's are of the first version, and read as ever
_MOST_HEAD = 2**26  # bytes; ids of a million tokens take 8 million
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Damaged(Exception):
    """Bytes that are not the entry they should be; the text says in what."""


class TensorPlace(NamedTuple):
    """A tensor of a layer: its name there, the safetensors name of its dtype, and its shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Return its bytes."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class EntryFacts:
    """What is known of an entry besides its K/V: ``seconds`` it took to compute (0: not measured), and how to keep it.

    ``priority`` orders eviction before any policy does (lower goes first), ``pinned`` entries are never evicted.
    ``ttl`` is in seconds after ``made`` (0: for ever). ``rank`` is what a strategy thinks it worth. ``error`` is the
    largest relative error of K/V in a lossy form (0: none).
    """

    seconds: float = 0.0
    priority: int = 0
    pinned: bool = False
    made: float = 0.0
    ttl: float = 0.0
    rank: float = 0.0
    error: float = 0.0
    provenance: str = "canonical"


@dataclass(frozen=True)
class EntryHeader:
    """What an entry's head says: the tokens ``ids`` from position ``start`` on in ``space``, behind ``before``.

    ``before`` is the digest of the tokens before ``start``, ``layers`` the tensors of each layer, ``digests`` those of
    their bytes. ``key`` is the entry's, ``marks`` are the digests it is found by.
    """

    space: Space
    form: str
    start: int
    ids: tuple[int, ...]
    before: str
    key: EntryKey
    marks: tuple[str, ...]
    layers: tuple[tuple[TensorPlace, ...], ...]
    digests: Sequence[str]
    facts: EntryFacts = field(default_factory=EntryFacts)
    version: int = _VERSION

    @property
    def stop(self) -> int:
        """Return the position behind the last token."""
        return self.start + len(self.ids)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Return the bytes of each layer."""
        return tuple(sum(tensor.nbytes for tensor in layer) for layer in self.layers)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Return where each layer begins behind the head."""
        return (0, *accumulate(self.sizes))[:-1]

    def common(self, ids: Sequence[int]) -> int:
        """Return up to which position of ``ids`` this entry's own tokens are the same."""
        own = ids[self.start : self.stop]
        pairs = zip(own, self.ids, strict=False)
        return self.start + next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(own), len(self.ids)))


class Sealer:
    """Puts the seal under a head: a digest of it, or with ``key`` a code that only those with that key can make."""

    def __init__(self, key: bytes = b"") -> None:
        """Use ``key``, of any length; none: whoever can write to the store can make entries."""
        self._key = key

    def __repr__(self) -> str:
        """Return whether there is a key, never the key."""
        return f"Sealer({'with a key' if self._key else ''})"

    @property
    def digests(self) -> str:
        """Return of which kind the digests of layers must be: with a key of one that nobody can find bytes for."""
        return BLAKE3 if self._key else XXH3

    @property
    def version(self) -> int:
        """Return the version of what is written."""
        return _VERSION if self.digests == XXH3 else _PLAIN

    def seal(self, text: str) -> str:
        """Return the seal of ``text``."""
        if self._key:
            return "hmac-sha256:" + hmac.new(self._key, text.encode(), "sha256").hexdigest()
        return "blake3:" + blake3(text.encode()).hexdigest()

    def check(self, text: str, seal: object) -> None:
        """Raise ``Damaged`` unless ``seal`` is that of ``text``."""
        if not isinstance(seal, str) or not hmac.compare_digest(self.seal(text).encode(), seal.encode()):
            message = "its seal is missing, or another key's" if self._key else "its head has changed since it was made"
            raise Damaged(message)


def render(header: EntryHeader, sealer: Sealer) -> bytes:
    """Return the head of a file with ``header``: its length in 8 bytes, then safetensors' JSON."""
    body: dict[str, object] = {each.name: getattr(header, each.name) for each in fields(header)}  # a copy takes longer
    body |= {
        "digests": list(header.digests),
        "space": asdict(header.space),
        "facts": asdict(header.facts),
    }
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    table: dict[str, object] = {"__metadata__": {"nbkv": text, "seal": sealer.seal(text)}}
    at = 0
    for number, layer in enumerate(header.layers):
        for place in layer:
            offsets = [at, at := at + place.nbytes]
            table[f"{number:04d}.{place.name}"] = {
                "dtype": place.dtype,
                "shape": list(place.shape),
                "data_offsets": offsets,
            }
    raw = json.dumps(table, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def head_size(first: bytes) -> int:
    """Return the bytes of a head by its ``first`` eight; raises ``Damaged`` where that cannot be one."""
    size = int.from_bytes(first, "little")
    if len(first) != 8 or not 2 <= size <= _MOST_HEAD:  # noqa: PLR2004  (eight bytes of length, and at least {})
        message = "it does not begin with the length of a head"
        raise Damaged(message)
    return 8 + size


def parse(head: bytes, sealer: Sealer, key: EntryKey | None = None) -> EntryHeader:
    """Return what ``head`` says; raises ``Damaged`` if it is not whole, not sealed so, or not that of ``key``."""
    try:
        table = json.loads(head[8 : head_size(head[:8])])
        text, seal = table["__metadata__"]["nbkv"], table["__metadata__"]["seal"]
        sealer.check(text, seal)
        header = _header(json.loads(text))
        fast = any(digest.startswith(XXH3) for digest in header.digests)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"its head cannot be read ({type(error).__name__})"
        raise Damaged(message) from None
    if render(header, sealer) != head:
        message = "its head does not fit what it says of itself"
        raise Damaged(message)
    if fast and (sealer.digests != XXH3 or header.version == _PLAIN):
        message = "its digests are of a kind that is not accepted there"
        raise Damaged(message)
    if key is not None and header.key != key:
        message = f"it is another entry ({header.key})"
        raise Damaged(message)
    return header


def _header(body: dict[str, Any]) -> EntryHeader:
    if body["version"] not in {_PLAIN, _VERSION}:
        message = "it was written by another version"
        raise Damaged(message)
    layers = tuple(tuple(TensorPlace(n, d, tuple(s)) for n, d, s in layer) for layer in body["layers"])
    given = {
        "space": Space(**body["space"]),
        "ids": tuple(body["ids"]),
        "key": EntryKey(*body["key"]),
        "marks": tuple(body["marks"]),
        "layers": layers,
        "digests": tuple(body["digests"]),
        "facts": EntryFacts(**body["facts"]),
    }
    header = EntryHeader(**(body | given))
    whole = len(header.digests) == len(layers) and header.key[1:] == (header.start, header.stop)
    if not whole or len(header.marks) != len(mark_positions(header.start, header.stop)):
        message = "its head contradicts itself"
        raise Damaged(message)
    return header
