"""What passes, strategies and results ask of any cache: one of ours, a family's own, or the mere log of the tokens."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Protocol

import torch

from nbkv.kv import KV
from nbkv.models.attention.masks import Mask
from nbkv.models.attention.positions import PassAttention
from nbkv.show.units import plural

_NOTHING = nullcontext()  # one for all tokens


class SequenceCache:
    """What is held of one sequence between two passes; the defaults are those of a plain transformers ``Cache``."""

    used_by_model: ClassVar[bool] = True  # whether a forward is given it at all

    @property
    def kind(self) -> str:
        """Return what reports call it."""
        return type(self).__name__

    # what a pass asks

    def rows_to_run(self, ids: torch.Tensor, start: int) -> tuple[torch.Tensor, int]:
        """Return the tokens a pass over new ones ``ids`` ``[n]`` at ``start …`` has to run, and where they begin."""
        return ids, start

    def attending(
        self, rows: torch.Tensor, n_keys: int, attention: PassAttention
    ) -> AbstractContextManager[Mask | None]:
        """Return how appended ``rows`` ``[n]`` (positions) attend to ``n_keys`` keys; it gives the mask they need."""
        return attention.appended(rows, n_keys)

    def advancing(self, tokens: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return a block within which the layers take in ``tokens`` tokens."""
        return _NOTHING

    @property
    def model_argument(self) -> Any:  # noqa: ANN401  (what a family's forward takes)
        """Return what the model's forward is given as its cache."""
        return self

    def receive(self, output: Any, name: str) -> None:  # noqa: ANN401  (a ModelOutput)
        """Take what a forward returns as ``output[name]``; nothing, where the cache is changed in place."""

    # what strategies ask

    def read(self, start: int, stop: int) -> KV:
        """Return K/V of tokens ``[start, stop)``. Raises ``TypeError`` where they do not lie by position."""
        message = f"a {self.kind} does not hold K/V by position: tokens [{start}, {stop}) cannot be read"
        raise TypeError(message)

    def truncate(self, length: int) -> None:
        """Forget all tokens from ``length`` on. Raises ``TypeError`` where none can be forgotten."""
        message = f"a {self.kind} cannot be cut back to {plural(length, 'token')}"
        raise TypeError(message)

    # what a result tells

    def held_bytes(self) -> int:
        """Return the bytes of the K/V a pass reads: of the tokens held, not of the room behind them."""
        return 0

    def restorable_bytes(self) -> int | None:
        """Return the bytes from which other K/V are restored; None where none are."""
        return None

    def peak_bytes(self) -> int | None:
        """Return the most bytes of K/V there were at any moment; None where nobody counts."""
        return None


class KVLayer(Protocol):
    """A cache's layer: keys and values ``[B, H, T, D]`` of its tokens; None while or where it has none."""

    @property
    def keys(self) -> torch.Tensor | None:
        """Return the keys."""

    @property
    def values(self) -> torch.Tensor | None:
        """Return the values."""


def kv_nbytes(layers: Iterable[KVLayer]) -> int:
    """Return the bytes of the keys and values of ``layers``."""
    sides = (side for layer in layers for side in (layer.keys, layer.values))
    return sum(side.numel() * side.element_size() for side in sides if side is not None)
