"""Forms in which the K/V of older tokens can be held, and the bytes a token takes in each.

A form says for each layer where its K/V come from when they are needed. That is all there is to say: token ids, one
residual, residuals at some layers or at all, quantised ones, latents, K/V on the host, and mixtures of these.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nbkv.errors import BadOption
from nbkv.families.options import whole_numbers
from nbkv.families.residual.row_buffer import quantised_bytes
from nbkv.models.adapter import ModelAdapter
from nbkv.models.projection.project import CapturingCache
from nbkv.specs import read

# Where a layer's K/V come from.
KV = "kv"  # they never left
HOST = "host"  # a copy in host memory
IDS = "ids"  # first layer only: the embeddings of the token ids
INPUT = "input"  # the layer's input, held
LATENT = "latent"  # what the layer's K and V projections read, held in a smaller space
RUN = "run"  # the layer's input, which the layer before has just computed again

ID_BYTES = 4
_BITS = (4, 8)
_widths: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Form:
    """A form of older tokens: ``sources`` has one entry a layer, ``bits`` of inputs or latents (None: not quantised).

    ``rank`` of latents; None: full rank.
    """

    spec: str
    sources: tuple[str, ...]
    bits: int | None = None
    rank: int | None = None

    @property
    def runs(self) -> bool:
        """Return whether layers are recomputed to restore K/V."""
        return RUN in self.sources

    @property
    def mixes(self) -> bool:
        """Return whether some layers' K/V come back from the host while others' are computed."""
        return HOST in self.sources and len(set(self.sources)) > 1

    @property
    def exact(self) -> bool:
        """Return whether restored K/V equal the original ones up to the rounding of matrix products."""
        return self.bits is None and LATENT not in self.sources

    def ends_at(self, layer: int) -> bool:
        """Return whether ``layer`` is the last of a run of recomputed layers: only its K/V are needed."""
        return layer + 1 == len(self.sources) or self.sources[layer + 1] != RUN

    def latent_rank(self, adapter: ModelAdapter, layer: int) -> int:
        """Return how many values a latent of ``layer`` has."""
        full = full_rank(adapter, layer)
        return full if self.rank is None else min(self.rank, full)

    def layer_bytes(self, adapter: ModelAdapter, layer: int) -> int:
        """Return the bytes a token takes for ``layer``."""
        source = self.sources[layer]
        if source in {KV, HOST}:
            return kv_bytes(adapter, layer)
        if source not in {INPUT, LATENT} or not kv_bytes(adapter, layer):
            return 0
        width = hidden_size(adapter) if source == INPUT else self.latent_rank(adapter, layer)
        return width * adapter.dtype.itemsize if self.bits is None else quantised_bytes(width, self.bits)

    def token_bytes(self, adapter: ModelAdapter) -> int:
        """Return the bytes of a token over all layers, its id included."""
        return ID_BYTES + sum(self.layer_bytes(adapter, layer) for layer in range(len(self.sources)))

    def device_bytes(self, adapter: ModelAdapter) -> int:
        """Return those of ``token_bytes`` that lie in the memory of the model's device."""
        if adapter.device.type == "cpu":
            return self.token_bytes(adapter)
        away = (layer for layer, source in enumerate(self.sources) if source == HOST)
        return self.token_bytes(adapter) - sum(kv_bytes(adapter, layer) for layer in away)


def kv_bytes(adapter: ModelAdapter, layer: int) -> int:
    """Return the bytes of one token's K and V in ``layer``; 0 for the last layers of a model that share others'."""
    known = adapter.capabilities
    if layer >= len(known.kv_heads):
        return 0
    return known.kv_heads[layer] * (known.key_dim[layer] + known.value_dim[layer]) * adapter.dtype.itemsize


def all_kv_bytes(adapter: ModelAdapter) -> int:
    """Return the bytes of one token's K and V in all layers."""
    return sum(kv_bytes(adapter, layer) for layer in range(adapter.n_layers))


def hidden_size(adapter: ModelAdapter) -> int:
    """Return the hidden size: the width of a layer's input."""
    if adapter.model not in _widths:
        _widths[adapter.model] = adapter.calls(adapter.tensor([0]), CapturingCache(), start=0)[0].hidden.numel()
    return _widths[adapter.model]


def full_rank(adapter: ModelAdapter, layer: int) -> int:
    """Return the largest rank that the K and V projections of ``layer`` together can have."""
    return min(hidden_size(adapter), kv_bytes(adapter, layer) // adapter.dtype.itemsize)


def _ids(n_layers: int) -> tuple[str, ...]:
    return (IDS, *(RUN,) * (n_layers - 1))


def _start(n_layers: int, layer: int) -> tuple[str, ...]:
    return (*(KV,) * layer, INPUT, *(RUN,) * (n_layers - layer - 1))


def _every(n_layers: int, k: int) -> tuple[str, ...]:
    return tuple(RUN if layer % k else INPUT for layer in range(n_layers))


def _first(n_layers: int, m: int) -> tuple[str, ...]:
    return (*_ids(m), *(KV,) * (n_layers - m))


def _mix(n_layers: int, m: int) -> tuple[str, ...]:
    return tuple(INPUT if (layer + 1) * m // n_layers > layer * m // n_layers else HOST for layer in range(n_layers))


def _all(source: str) -> Callable[[int], tuple[str, ...]]:
    return lambda n_layers: (source,) * n_layers


# name: how many numbers it takes (least, most), and its sources
_FORMS: dict[str, tuple[int, int, Callable[..., tuple[str, ...]]]] = {
    "ids": (0, 0, _ids),
    "start": (1, 1, _start),
    "every": (1, 1, _every),
    "layers": (0, 0, _all(INPUT)),
    "int8": (0, 0, _all(INPUT)),
    "int4": (0, 0, _all(INPUT)),
    "latent": (0, 2, _all(LATENT)),
    "host": (0, 0, _all(HOST)),
    "mix": (1, 1, _mix),
    "first": (1, 1, _first),
}
ACCEPTED = (
    "auto, ids, first(m), start(layer), every(k), layers, int8, int4, latent, latent(rank), latent(rank, bits), host,"
    " mix(m)"
)


def parse(spec: str, n_layers: int | None = None) -> Form:
    """Return the form that ``spec`` names for a model of ``n_layers`` (None: only look whether it is one).

    Raises ``BadOption``.
    """
    accepted = f"form={spec!r} is not accepted: form is one of {ACCEPTED}"
    try:
        name, values, options = read(spec)
    except ValueError as error:
        raise BadOption(accepted) from error
    least, most, sources = _FORMS.get(name, (1, 0, _all(KV)))
    numbers = whole_numbers(values)
    if options or numbers is None or not least <= len(numbers) <= most:
        raise BadOption(accepted)
    layers = n_layers or max([1, *numbers]) + 1
    _check(spec, name, numbers, layers)
    if name == "latent":
        rank, bits = (*numbers, None, None)[:2]
        return Form(spec, sources(layers), bits, rank)
    return Form(spec, sources(layers, *numbers), {"int8": 8, "int4": 4}.get(name))


def _check(spec: str, name: str, numbers: Sequence[int], n_layers: int) -> None:
    ranges = {
        "start": (0, n_layers - 1),
        "every": (1, n_layers),
        "mix": (1, n_layers),
        "first": (1, n_layers),
        "latent": (1, 2**31),
    }
    low, high = ranges.get(name, (0, 0))
    if numbers and not low <= numbers[0] <= high:
        message = f"form={spec!r} is not accepted: the number of {name} is between {low} and {high} here"
        raise BadOption(message)
    if len(numbers) > 1 and numbers[1] not in _BITS:
        message = f"form={spec!r} is not accepted: latents have 4 or 8 bits, or as many as the model"
        raise BadOption(message)
