"""An entry: K/V of consecutive tokens of one sequence as a safetensors file, which says what it is and can be checked.

The file is layer-major: a head (``nbkv.stores.tiers.head``), then layer after layer, each of which can be read, checked
and used on its own. What does not fit its own head is ``Damaged``; nobody gets to see any of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from nbkv.kv import KV, Space
from nbkv.stores.tiers.forms import StorageForm, Tensors, form_of
from nbkv.stores.tiers.head import DTYPES, NAMES, Bytes, Damaged, EntryFacts, EntryHeader, Sealer, TensorPlace, render
from nbkv.stores.tiers.key import PathKeys
from nbkv.stores.tiers.layer_digests import BLANK, LARGE, LayerDigests, digest

_READERS = 2


@dataclass(frozen=True, eq=False)
class Entry:
    """An entry wherever it lies: its ``header``, the ``head_nbytes`` of it rendered, and its layers.

    ``rendered()`` returns the head's bytes, ``read(layer)`` a layer's, in pieces. ``read`` may raise ``OSError``, and
    may give anything at all: ``blob`` checks it. It is called from several threads. ``made`` entries are this process's
    own; their digests may still be under way, and ``head`` waits for them.
    """

    header: EntryHeader
    head_nbytes: int
    rendered: Callable[[], bytes]
    read: Callable[[int], Sequence[Bytes]]
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

    def tensors(self, layer: int) -> Tensors:
        """Return the tensors of ``layer`` by name, on the CPU, to be read only; raises ``Damaged``."""
        data, at, tensors = self.blob(layer), 0, {}
        for place in self.header.layers[layer]:
            tensors[place.name] = _tensor(data[at : at + place.nbytes], place)
            at += place.nbytes
        return tensors

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values ``[H, T, D]`` of ``layer`` on the CPU, to be read only; raises ``Damaged``."""
        return form_of(self.header.form).unpack(self.tensors(layer))

    def kv(self) -> KV:
        """Return all layers; of a large entry one is read while another is checked."""
        if self.nbytes < LARGE:
            layers = [self.layer(layer) for layer in range(self.n_layers)]
        else:
            with ThreadPoolExecutor(_READERS, thread_name_prefix="nbkv-read") as pool:
                layers = list(pool.map(self.layer, range(self.n_layers)))
        keys, values = zip(*layers, strict=True)
        return KV(keys, values)


def lying_entry(header: EntryHeader, head: bytes, read: Callable[[int], Sequence[Bytes]]) -> Entry:
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
        digests=LayerDigests(blobs),
        facts=facts,
    )
    blank = render(replace(header, digests=(BLANK,) * len(blobs)), sealer)
    return Entry(header, len(blank), lambda: render(header, sealer), blobs.__getitem__, made=True)


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
