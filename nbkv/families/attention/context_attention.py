"""Attention of a block's rows to the keys before it (the context), kept between denoising passes and merged.

A pass over a block attends to the block itself, which changes from pass to pass, and to everything before it, which
does not. The second part is kept as ``(out, lse)`` and merged with a fresh first part (FlashBlock, arXiv 2602.05305).
The merge is exact; what is approximate is that the rows have changed since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from nbkv.families.attention.head_drift import HeadDrift
from nbkv.families.attention.topk_keys import TopKeys, pick
from nbkv.models.attention.layer import Attention, Policy
from nbkv.ops import State, merge_states


@dataclass(eq=False)
class ContextAttention:
    """The kept ``(out, lse)`` of one block's rows over its context, by layer; ``staleness`` sums up over blocks.

    Layers that are ``exempt`` keep the model's own attention. With ``density`` that share of the keys, those the block
    attends to most, is read anew in every pass, and what is kept is about the rest; with ``residual`` false the rest is
    left out instead (plain sparse attention). ``reused`` sums up what was taken from an earlier pass: rows x K/V heads,
    times the share of the context's keys that what is kept stands for.
    """

    exempt: frozenset[int] = frozenset()
    density: float | None = None
    residual: bool = True
    staleness: HeadDrift = field(default_factory=HeadDrift)
    reused: float = 0.0
    _kept: dict[int, State] = field(default_factory=dict)
    _picked: dict[int, TopKeys] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Return whether no layer has kept attention."""
        return not self._kept

    def forget(self) -> None:
        """Begin another block."""
        self._kept.clear()
        self._picked.clear()

    def refresh(self, attention: Attention) -> torch.Tensor | None:
        """Attend to all keys and keep the part over the context; a ``Policy``, exact up to rounding."""
        layer = attention.layer
        if layer in self.exempt or not attention.outside:
            return None
        if self.density is not None and layer not in self._picked:
            self._picked[layer] = pick(attention, self.density)
        kept = _in_float32(self._kept_part(attention))
        if (old := self._kept.get(layer)) is not None:
            self.staleness.add(layer, old, kept)
        self._kept[layer] = kept
        return _merged(attention, [*self._fresh_parts(attention), kept])

    def reusing(self, rows: torch.Tensor | None = None, heads: Mapping[int, Sequence[int]] | None = None) -> Policy:
        """Return the policy that merges fresh attention within the block with the kept part over the context.

        That part is computed anew, and kept, for ``rows`` ``[m]`` and for these K/V ``heads`` of each layer.
        """
        return partial(self._reuse, rows=rows, heads=heads or {})

    def _reuse(
        self, attention: Attention, *, rows: torch.Tensor | None, heads: Mapping[int, Sequence[int]]
    ) -> torch.Tensor | None:
        kept = self._kept.get(attention.layer)
        if kept is None:
            return None
        for head in heads.get(attention.layer, ()):
            self._recompute_head(attention, head, kept)
        if rows is not None and len(rows):
            self._recompute_rows(attention, rows, kept)
        if not self.residual:
            return _merged(attention, self._fresh_parts(attention))
        n, again = attention.query.shape[-2], 0 if rows is None else len(rows)
        self.reused += (
            (attention.key.shape[1] - len(heads.get(attention.layer, ()))) * (n - again) * self._rest(attention)
        )
        return _merged(attention, [*self._fresh_parts(attention), kept])

    def _rest(self, attention: Attention) -> float:
        """Return the share of the context's keys that are not read in every pass."""
        picked = self._picked.get(attention.layer)
        return 1.0 if picked is None else 1.0 - picked.key.shape[-2] / attention.outside

    def _fresh_parts(self, attention: Attention) -> list[State]:
        """Return the parts that every pass computes: over the block itself, and over the selected context keys."""
        picked = self._picked.get(attention.layer)
        inside = attention.inside()
        return [inside] if picked is None else [inside, attention.to(picked.key, picked.value)]

    def _kept_part(self, attention: Attention, query: torch.Tensor | None = None) -> State:
        """Return the part to keep: over the context keys not selected, for all rows or those of ``query``."""
        outside, picked = slice(attention.outside), self._picked.get(attention.layer)
        key, value = attention.key[:, :, outside], attention.value[:, :, outside]
        return attention.to(key, value, query=query, mask=None if picked is None else picked.rest)

    def _recompute_rows(self, attention: Attention, rows: torch.Tensor, kept: State) -> None:
        fresh = _in_float32(self._kept_part(attention, attention.query.index_select(-2, rows)))
        for old, new in zip(kept, fresh, strict=True):
            old.index_copy_(2, rows, new)

    def _recompute_head(self, attention: Attention, head: int, kept: State) -> None:
        groups = attention.query.shape[1] // attention.key.shape[1]
        mine, outside = slice(head * groups, (head + 1) * groups), slice(attention.outside)
        key, value = (side[:, head : head + 1, outside] for side in (attention.key, attention.value))
        picked = self._picked.get(attention.layer)
        mask = None if picked is None else picked.rest[:, mine]
        fresh = attention.to(key, value, query=attention.query[:, mine], mask=mask)
        for old, new in zip(kept, _in_float32(fresh), strict=True):
            old[:, mine] = new


def _merged(attention: Attention, parts: Sequence[State]) -> torch.Tensor:
    return merge_states(parts)[0].to(attention.query.dtype)


def _in_float32(state: State) -> State:
    # Kept in float32: what is merged again and again must not be rounded each time.
    return state[0].to(state[1].dtype), state[1]
