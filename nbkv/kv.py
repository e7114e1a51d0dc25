"""The nouns of reuse: the keys and values of a token span, layer by layer, and the space they may be reused in."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch


class Span(NamedTuple):
    """A half-open token range ``[start, stop)`` in prompt positions."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Return the number of tokens."""
        return self.stop - self.start


@dataclass(frozen=True)
class Space:
    """Everything besides token ids that must match before KV may be reused.

    ``model`` is the fingerprint (weights, quantisation, active adapters, rope, attention kind); ``lineage`` is
    ``exact``, ``canonical`` or ``approx:<strategy>``; exact strategies read only ``exact``. With ``block`` a token's KV
    depends on its whole diffusion block, so whole blocks only are kept and found.
    """

    model: str
    dtype: str
    tenant: str = "default"
    lineage: str = "exact"
    block: int | None = None

    def path(self, ids: Sequence[int]) -> Sequence[Hashable]:
        """Return what must be the same for each token of ``ids``: itself, or its place and its whole block."""
        if self.block is None:
            return ids
        blocks = (tuple(ids[at : at + self.block]) for at in range(0, len(ids) - self.block + 1, self.block))
        return [(place, block) for block in blocks for place in range(self.block)]

    def ids(self, path: Sequence[Any]) -> Sequence[int]:
        """Return the token ids that ``path`` was made of; those of whole blocks."""
        return path if self.block is None else [block[place] for place, block in path]


@dataclass(frozen=True, eq=False)
class KV:
    """Keys and values of one token span.

    Per layer: ``keys[i]`` ``[H_k, T, D_k]`` and ``values[i]`` ``[H_v, T, D_v]``, unbatched, in the model's own cached
    form (keys after the rotary embedding). A layer may lie on its own device.
    """

    keys: tuple[torch.Tensor, ...]
    values: tuple[torch.Tensor, ...]

    @property
    def length(self) -> int:
        """Return the number of tokens ``T``."""
        return int(self.keys[0].shape[-2]) if self.keys else 0

    @property
    def nbytes(self) -> int:
        """Return the bytes of the tokens themselves, whatever buffer they are a view of."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def __getitem__(self, span: slice) -> KV:
        """Return the tokens of ``span`` as a view."""
        return KV(tuple(k[:, span] for k in self.keys), tuple(v[:, span] for v in self.values))

    def need(self, layer: int) -> None:
        """Wait until ``layer`` may be read; here all of them may, others arrive while earlier ones are in use."""

    def compact(self) -> KV:
        """Return a copy that shares memory with nothing else."""
        return KV(
            tuple(k.clone(memory_format=torch.contiguous_format) for k in self.keys),
            tuple(v.clone(memory_format=torch.contiguous_format) for v in self.values),
        )

    def on_host(self) -> KV:
        """Return a copy on the CPU that shares memory with nothing else."""
        return KV(
            tuple(k.detach().to("cpu", copy=True).contiguous() for k in self.keys),
            tuple(v.detach().to("cpu", copy=True).contiguous() for v in self.values),
        )

    def on(self, devices: Sequence[str]) -> KV:
        """Return each layer on its device, moved where need be; ``devices`` are one a layer, or one for all."""
        each = list(devices) * (len(self.keys) if len(devices) == 1 else 1)
        return KV(
            tuple(k.to(device) for k, device in zip(self.keys, each, strict=True)),
            tuple(v.to(device) for v, device in zip(self.values, each, strict=True)),
        )


def join(parts: Sequence[KV]) -> KV:
    """Return ``parts`` one after another: a single one as it is, several in memory of their own."""
    if len(parts) == 1:
        return parts[0]
    keys = tuple(torch.cat(layers, dim=-2) for layers in zip(*(part.keys for part in parts), strict=True))
    values = tuple(torch.cat(layers, dim=-2) for layers in zip(*(part.values for part in parts), strict=True))
    return KV(keys, values)


def allocate(*shape: int, dtype: torch.dtype, device: torch.device | str, pin_memory: bool = False) -> torch.Tensor:
    """Return memory of ``shape``, not initialised, that may be written whatever torch mode the writer is in.

    Models run in inference mode, and torch refuses writes into a tensor made there once that mode is left. K/V outlive
    the pass, and the caller's own mode, that they were first allocated in.
    """
    with torch.inference_mode(mode=False):
        return torch.empty(*shape, dtype=dtype, device=device, pin_memory=pin_memory)
