"""An entry: K/V of consecutive tokens of one sequence as a safetensors file, which says what it is and can be checked.

The file is layer-major: a head (``nbkv.stores.tiers.head``), then layer after layer, each of which can be read, checked
and used on its own. What does not fit its own head is ``Damaged``; nobody gets to see any of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from nbkv.kv import KV, Space
from nbkv.stores.tiers.forms import StorageForm, Tensors, form_of
from nbkv.stores.tiers.head import DTYPES, NAMES, Bytes, Damaged, EntryFacts, EntryHeader, Sealer, TensorPlace, render
from nbkv.stores.tiers.key import PathKeys
from nbkv.stores.tiers.layer_digests import LARGE, LayerDigest, LayerDigests, blank, kind_of

Pair = tuple[torch.Tensor, torch.Tensor]
_READERS = 2


class Receivable(ABC):
    """The bytes of a layer where they lie, to be put where somebody wants them."""

    @abstractmethod
    def receive(self, into: Sequence[memoryview]) -> Iterator[memoryview]:
        """Fill the bytes ``into``, one after another, and yield each part as it comes; fewer where there are no more.

        May raise ``OSError``.
        """


@dataclass(frozen=True, eq=False)
class Entry:
    """An entry wherever it lies: its ``header``, the ``head_nbytes`` of it rendered, and its layers.

    ``rendered()`` returns the head's bytes, ``read(layer)`` a layer's, in pieces or to be received. It may raise
    ``OSError``, and may give anything at all: all of it is checked. It is called from several threads. ``made`` entries
    are this process's own, in pieces; their digests may still be under way, and ``head`` waits for them.
    """

    header: EntryHeader
    head_nbytes: int
    rendered: Callable[[], bytes]
    read: Callable[[int], Sequence[Bytes] | Receivable]
    made: bool = False

    @cached_property
    def head(self) -> bytes:
        """Return the head as bytes."""
        return self.rendered()

    @property
    def nbytes(self) -> int:
        """Return the bytes of the whole file."""
        return self.head_nbytes + sum(self.header.sizes)

    @property
    def n_layers(self) -> int:
        """Return how many layers there are."""
        return len(self.header.layers)

    def pieces(self, layer: int) -> Sequence[Bytes]:
        """Return the bytes of ``layer`` in pieces, for a tier to keep; raises ``Damaged`` as ``blob`` does."""
        own = self.read(layer) if self.made else None
        return [self.blob(layer)] if own is None or isinstance(own, Receivable) else own

    def blob(self, layer: int) -> memoryview:
        """Return the bytes of ``layer``; raises ``Damaged`` if they are others than when the entry was made."""
        return self._blob(layer, self.read(layer))

    def _blob(self, layer: int, source: Sequence[Bytes] | Receivable) -> memoryview:
        if isinstance(source, Receivable):
            whole = memoryview(np.empty(self.header.sizes[layer], dtype=np.uint8))  # type: ignore[arg-type]  # a buffer
            self._checked(layer, source.receive([whole]))
            return whole
        pieces = self._checked(layer, source)
        return pieces[0] if len(pieces) == 1 else memoryview(bytearray(b"".join(pieces)))

    def _checked(self, layer: int, pieces: Iterable[Bytes]) -> list[memoryview]:
        """Return ``pieces`` as they come, each of which goes into the digest while processors still have it at hand."""
        expected, came = self.header.digests[layer], []
        taken = LayerDigest(kind_of(expected))
        for piece in pieces:
            came.append(memoryview(piece).cast("B"))
            taken.add(came[-1])
        if taken.nbytes != self.header.sizes[layer]:
            message = f"layer {layer} has {taken.nbytes} bytes of {self.header.sizes[layer]}"
            raise Damaged(message)
        if str(taken) != expected:
            message = f"layer {layer} has changed since it was made"
            raise Damaged(message)
        return came

    def tensors(self, layer: int) -> Tensors:
        """Return the tensors of ``layer`` by name, on the CPU, to be read only; raises ``Damaged``."""
        return self._tensors(layer, self.read(layer))

    def _tensors(self, layer: int, source: Sequence[Bytes] | Receivable) -> Tensors:
        data, at, tensors = self._blob(layer, source), 0, {}
        for place in self.header.layers[layer]:
            tensors[place.name] = _tensor(data[at : at + place.nbytes], place)
            at += place.nbytes
        return tensors

    def layer(self, layer: int, into: Pair | None = None) -> Pair:
        """Return keys and values ``[H, T, D]`` of ``layer`` on the CPU, to be read only; raises ``Damaged``.

        Where they can be received as they are to be used, they are in ``into``: memory for both whose content counts
        for nothing, and after ``Damaged`` still does.
        """
        source = self.read(layer)
        places = self._places(layer, into) if into is not None and isinstance(source, Receivable) else []
        if into is not None and isinstance(source, Receivable) and places:
            self._checked(layer, source.receive(places))
            return into
        return form_of(self.header.form).unpack(self._tensors(layer, source))

    def _places(self, layer: int, into: Pair) -> list[memoryview]:
        """Return where the bytes of ``layer`` belong in keys and values, in order; none where they are others there."""
        stored = self.header.layers[layer]
        if self.header.form or [place.name for place in stored] != ["k", "v"]:
            return []
        places = []
        for side, place in zip(into, stored, strict=True):
            fits = side.device.type == "cpu" and (tuple(side.shape), side.dtype) == (place.shape, DTYPES[place.dtype])
            if not fits or not side.numel() or not side[0].is_contiguous():
                return []
            places += [_bytes(side)] if side.is_contiguous() else [_bytes(head) for head in side]
        return places

    def kv(self) -> KV:
        """Return all layers; of a large entry one is read while another is checked."""
        if self.nbytes < LARGE:
            layers = [self.layer(layer) for layer in range(self.n_layers)]
        else:
            with ThreadPoolExecutor(_READERS, thread_name_prefix="nbkv-read") as pool:
                layers = list(pool.map(self.layer, range(self.n_layers)))
        keys, values = zip(*layers, strict=True)
        return KV(keys, values)


def lying_entry(header: EntryHeader, head: bytes, read: Callable[[int], Sequence[Bytes] | Receivable]) -> Entry:
    """Return the entry that lies somewhere as ``head``, which says what ``header`` does, and ``read(layer)``."""
    return Entry(header, len(head), lambda: head, read)


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
    layers = [form.pack(k, v) for k, v in zip(kv.keys, kv.values, strict=True)]
    return packed_entry(space, ids, start, layers, keys=keys, kind=form.name, sealer=sealer, facts=facts)


def packed_entry(
    space: Space,
    ids: Sequence[int],
    start: int,
    layers: Sequence[Tensors],
    *,
    keys: PathKeys,
    kind: str,
    sealer: Sealer,
    facts: EntryFacts,
) -> Entry:
    """Return ``layers``, tensors by name that are of ``ids[start:]``, as an entry whose form is called ``kind``."""
    packed = [{name: _host(tensor) for name, tensor in layer.items()} for layer in layers]
    blobs = [[_bytes(tensor) for tensor in layer.values()] for layer in packed]
    header = EntryHeader(
        space=space,
        form=kind,
        start=start,
        ids=tuple(ids[start:]),
        before=keys.at(start),
        key=keys.entry(start, len(ids)),
        marks=keys.marks(start, len(ids)),
        layers=tuple(
            tuple(TensorPlace(name, NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in layer.items())
            for layer in packed
        ),
        digests=LayerDigests(blobs, sealer.digests),
        facts=facts,
        version=sealer.version,
    )
    unsigned = render(replace(header, digests=(blank(sealer.digests),) * len(blobs)), sealer)
    return Entry(header, len(unsigned), lambda: render(header, sealer), blobs.__getitem__, made=True)


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
