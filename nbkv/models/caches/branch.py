"""A branch: its cache holds its own tokens only, and its attention reads what is before them where that lives.

Attention over the shared pieces and over the branch's own keys is computed apart and merged by log-sum-exp, which is
exact (Hydragen, arXiv 2402.05099, section 3.1; cascade attention).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from nbkv.kv import KV, join
from nbkv.models.attention.intercept import computed_by
from nbkv.models.attention.layer import Attention
from nbkv.models.attention.masks import edges
from nbkv.models.attention.positions import PassAttention
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.caches.growing_layer import GrowingLayer, Pair
from nbkv.models.capabilities import Capabilities
from nbkv.ops import shared_prefix_attention
from nbkv.show.units import plural


class BranchLayer(GrowingLayer):
    """K and V of one layer from position ``base`` on; ``length`` counts its own tokens."""

    def __init__(self, base: int, reserve: int = 0) -> None:
        """Start without tokens of its own."""
        super().__init__(reserve)
        self.base = base

    def get_seq_length(self) -> int:
        """Return the position behind the last token."""
        return self.base + self.length


class BranchCache(GrowingCache):
    """The tokens ``[base, length)`` of a sequence; ``pieces`` are views of those before. All positions are absolute.

    ``shared_bytes`` are those of the pieces, also when these have been let go.
    """

    def __init__(self, base: int, n_layers: int) -> None:
        """Start without tokens of its own in each of ``n_layers`` layers."""
        self.base = base
        self.shared_bytes = 0
        super().__init__()
        self.extend(n_layers)

    def _new_layer(self) -> BranchLayer:
        return BranchLayer(self.base, self._reserve)

    def share(self, spans: Sequence[KV]) -> None:
        """Attend to the tokens ``[0, base)`` in ``spans``, one after another; to none of them where there are none."""
        if (held := sum(span.length for span in spans)) != self.base and spans:
            message = (
                f"spans of {plural(held, 'token')} were given to a branch at {self.base}: give all before it, in order"
            )
            raise ValueError(message)
        self.pieces = tuple(spans)
        self.shared_bytes = sum(span.nbytes for span in spans) or self.shared_bytes

    @property
    def length(self) -> int:
        """Return the position behind the last token that every layer holds."""
        return self.base + super().length

    def attending(self, rows: torch.Tensor, n_keys: int, attention: PassAttention) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return how appended rows attend: to the shared pieces and to their own keys, merged by log-sum-exp."""
        return branched(attention.config, self, attention.capabilities)

    def held_bytes(self) -> int:
        """Return the bytes of its own keys and values, and of the shared ones."""
        return super().held_bytes() + self.shared_bytes

    def reserve(self, tokens: int) -> None:
        """Make the next allocation large enough for ``tokens`` tokens in all, the shared ones included."""
        super().reserve(max(0, tokens - self.base))

    def truncate(self, length: int) -> None:
        """Keep the first ``length`` tokens; what is shared stays."""
        super().truncate(max(0, length - self.base))

    def read(self, start: int, stop: int) -> KV:
        """Return K/V of ``[start, stop)``: views of its own tokens, a copy where some are shared."""
        own = super().read(max(0, start - self.base), max(0, stop - self.base))
        if start >= self.base:
            return own
        shared = join(self.pieces)[start : min(stop, self.base)]
        return shared if stop <= self.base else join([shared, own])

    def room(self, layer: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> Pair:
        """Return where ``keys`` and ``values`` ``[H, n, D]`` of one layer go from ``start`` on, at least ``base``."""
        if start < self.base:
            message = f"a branch at {self.base} was given K/V for position {start}: what is before it is shared"
            raise ValueError(message)
        return super().room(layer, start - self.base, keys, values)

    def writing(self, rows: torch.Tensor) -> NoReturn:  # noqa: ARG002
        """Raise ``ValueError``: a branch is only continued."""
        message = "rows cannot be scattered in a branch: lease a line of its own (take without branch_at)"
        raise ValueError(message)


@dataclass(frozen=True, eq=False)
class _VisibleKeys:
    """Which keys rows attend to: none before ``first``; from there on those from ``lower``, own ones up to ``upper``.

    Both are ``[n]``; None where every row attends to all. Own keys count from the first that any row attends to.
    """

    first: int
    lower: torch.Tensor | None
    upper: torch.Tensor | None


@contextmanager
def branched(config: Any, cache: BranchCache, capabilities: Capabilities) -> Iterator[None]:  # noqa: ANN401  (a transformers config)
    """Within the block the rows of a pass, which ``cache`` appends, attend to the shared pieces and to its own keys.

    The pass is given no mask. ``config`` is the text decoder's.
    """
    known: dict[tuple[int | None, int | None], _VisibleKeys] = {}

    def policy(seen: Attention) -> torch.Tensor:
        reach = capabilities.reach(seen.layer)
        if reach not in known:
            rows = torch.arange(seen.outside, seen.key.shape[-2]) + cache.base
            known[reach] = _view(rows, cache.base, reach, seen.query.device)
        view, at, pieces = known[reach], 0, []
        for piece in cache.pieces:
            cut = slice(max(0, view.first - at), None)
            at += piece.length
            if at > view.first:
                pieces.append((piece.keys[seen.layer][:, cut], piece.values[seen.layer][:, cut]))
        cut = slice(max(0, view.first - cache.base), None)
        own = seen.key[:, :, cut], seen.value[:, :, cut]
        options: dict[str, Any] = {"scale": seen.scale, "softcap": seen.softcap, "sinks": seen.sinks}
        return shared_prefix_attention(seen.query, pieces, own, view.upper, view.lower, **options)[0]

    with computed_by(config, policy):
        yield


def _view(rows: torch.Tensor, base: int, reach: tuple[int | None, int | None], device: torch.device) -> _VisibleKeys:
    """Return what ``rows`` ``[n]``, the last ones of a branch at ``base``, attend to in a layer of this ``reach``."""
    lower, upper = edges(rows, *reach)
    first, last = int(lower.min()), int(lower.max())
    return _VisibleKeys(
        first,
        None if last == first else (lower - first).to(device),
        None if len(rows) == 1 else (upper - max(base, first)).to(device),
    )
