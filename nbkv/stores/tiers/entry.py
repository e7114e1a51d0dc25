"""An entry: K/V of consecutive tokens of one sequence as a safetensors file, which says what it is and can be checked.

The file is layer-major: a head, then layer after layer, each of which can be read, checked and used on its own. The
head says everything that must match, has a digest of every layer, and a seal over itself. What does not fit its own
head, or the head its seal, is ``Damaged``; nobody gets to see any of it.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Any, NamedTuple

import torch
from blake3 import blake3

from nbkv.kv import KV, Space
from nbkv.stores.tiers.forms import StorageForm, form_of
from nbkv.stores.tiers.key import EntryKey, PathKeys, mark_positions

Bytes = bytes | bytearray | memoryview

_VERSION = 1
_LARGE = 2**23  # bytes from which on threads are worth their start
_READERS = 2
_MOST_HEAD = 2**26  # bytes; ids of a million tokens take 8 million
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


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
    digests: tuple[str, ...]
    facts: EntryFacts = field(default_factory=EntryFacts)

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


@dataclass(frozen=True, eq=False)
class Entry:
    """An entry wherever it lies: its ``header``, its ``head`` as bytes, and ``read(layer)``, a layer's bytes in pieces.

    ``read`` may raise ``OSError``, and may give anything at all: ``blob`` checks it. It is called from several threads.
    ``made`` entries are this process's own, with digests that were just taken.
    """

    header: EntryHeader
    head: bytes
    read: Callable[[int], Sequence[Bytes]]
    made: bool = False

    @property
    def nbytes(self) -> int:
        """Return the bytes of the whole file."""
        return len(self.head) + sum(self.header.sizes)

    @property
    def n_layers(self) -> int:
        """Return how many layers there are."""
        return len(self.header.layers)

    def pieces(self, layer: int) -> Sequence[Bytes]:
        """Return the bytes of ``layer`` in pieces, for a tier to keep; raises ``Damaged`` as ``blob`` does."""
        return self.read(layer) if self.made else [self.blob(layer)]

    def blob(self, layer: int) -> memoryview:
        """Return the bytes of ``layer``; raises ``Damaged`` if they are others than when the entry was made."""
        pieces = [memoryview(piece).cast("B") for piece in self.read(layer)]
        nbytes = sum(piece.nbytes for piece in pieces)
        if nbytes != self.header.sizes[layer]:
            message = f"layer {layer} has {nbytes} bytes of {self.header.sizes[layer]}"
            raise Damaged(message)
        if digest(pieces) != self.header.digests[layer]:
            message = f"layer {layer} has changed since it was made"
            raise Damaged(message)
        return pieces[0] if len(pieces) == 1 else memoryview(bytearray(b"".join(pieces)))

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values ``[H, T, D]`` of ``layer`` on the CPU, to be read only; raises ``Damaged``."""
        data, at, tensors = self.blob(layer), 0, {}
        for place in self.header.layers[layer]:
            tensors[place.name] = _tensor(data[at : at + place.nbytes], place)
            at += place.nbytes
        return form_of(self.header.form).unpack(tensors)

    def kv(self) -> KV:
        """Return all layers; of a large entry one is read while another is checked."""
        if self.nbytes < _LARGE:
            layers = [self.layer(layer) for layer in range(self.n_layers)]
        else:
            with ThreadPoolExecutor(_READERS, thread_name_prefix="nbkv-read") as pool:
                layers = list(pool.map(self.layer, range(self.n_layers)))
        keys, values = zip(*layers, strict=True)
        return KV(keys, values)


def digest(pieces: Sequence[Bytes]) -> str:
    """Return the digest of a layer's bytes."""
    hasher = blake3(max_threads=blake3.AUTO if sum(len(piece) for piece in pieces) > _LARGE else 1)
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest(16).hex()


def _digests(layers: Sequence[Sequence[Bytes]]) -> tuple[str, ...]:
    """Return the digest of each layer; of many bytes two at a time."""
    if sum(len(piece) for pieces in layers for piece in pieces) < _LARGE:
        return tuple(digest(pieces) for pieces in layers)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="nbkv-digest") as pool:
        return tuple(pool.map(digest, layers))


def make_entry(
    space: Space,
    ids: Sequence[int],
    start: int,
    kv: KV,
    *,
    form: StorageForm,
    sealer: Sealer,
    facts: EntryFacts,
    keys: PathKeys | None = None,
) -> Entry:
    """Return ``kv``, the K/V of ``ids[start:]`` in ``space``, as an entry, in the memory of ``kv`` where it can be."""
    keys = keys or PathKeys(space, ids, form.name)
    packed = [
        {name: _host(tensor) for name, tensor in form.pack(k, v).items()}
        for k, v in zip(kv.keys, kv.values, strict=True)
    ]
    blobs = [[_bytes(tensor) for tensor in layer.values()] for layer in packed]
    header = EntryHeader(
        space=space,
        form=form.name,
        start=start,
        ids=tuple(ids[start:]),
        before=keys.at(start),
        key=keys.entry(start, len(ids)),
        marks=keys.marks(start, len(ids)),
        layers=tuple(
            tuple(TensorPlace(name, _NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in layer.items())
            for layer in packed
        ),
        digests=_digests(blobs),
        facts=facts,
    )
    return Entry(header, render(header, sealer), blobs.__getitem__, made=True)


def render(header: EntryHeader, sealer: Sealer) -> bytes:
    """Return the head of a file with ``header``: its length in 8 bytes, then safetensors' JSON."""
    body: dict[str, object] = {each.name: getattr(header, each.name) for each in fields(header)}  # a copy takes longer
    body |= {"space": asdict(header.space), "facts": asdict(header.facts), "version": _VERSION}
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
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"its head cannot be read ({type(error).__name__})"
        raise Damaged(message) from None
    if render(header, sealer) != head:
        message = "its head does not fit what it says of itself"
        raise Damaged(message)
    if key is not None and header.key != key:
        message = f"it is another entry ({header.key})"
        raise Damaged(message)
    return header


def _header(body: dict[str, Any]) -> EntryHeader:
    if body.pop("version") != _VERSION:
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


def _host(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu").contiguous()


def _bytes(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # arrays are buffers


def _tensor(data: memoryview, place: TensorPlace) -> torch.Tensor:
    dtype = DTYPES[place.dtype]
    if not data.nbytes:
        return torch.empty(place.shape, dtype=dtype)
    if data.readonly:  # torch warns of memory it could write to but must not
        data = memoryview(bytearray(data))
    flat = torch.frombuffer(data, dtype=torch.uint8)
    aligned = flat if flat.data_ptr() % dtype.itemsize == 0 else flat.clone()
    return aligned.view(dtype).reshape(place.shape)
