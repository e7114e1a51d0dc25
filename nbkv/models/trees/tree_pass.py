"""One pass over the next tokens of sequences that branch: each stored key is read once, whoever sees it.

Attention is computed in two parts, over what all sequences share and, under a mask that says who sees what, over
the tree; their merge by log-sum-exp is exact (Hydragen, arXiv 2402.05099; tree attention, SpecInfer, arXiv 2305.09781).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nbkv.models.adapter import ModelAdapter
from nbkv.models.attention.layer import Attention, Policy
from nbkv.models.attention.masks import edges
from nbkv.models.caches.packed import PackedCache, SharedPass, pieces_from
from nbkv.models.capabilities import Capabilities
from nbkv.models.trees.token_tree import TokenTree
from nbkv.models.work import Work
from nbkv.ops import shared_prefix_attention


class TreePass:
    """The next token of each of some sequences of ``tree``: ``tokens[i]`` of sequence ``numbers[i]``."""

    def __init__(self, tree: TokenTree, numbers: Sequence[int], tokens: Sequence[int]) -> None:
        """Lay the rows out; the tree is as it was until the pass is done."""
        device, n = tree.sees.device, len(tokens)
        self.ids = torch.tensor(list(tokens), device=device)
        self.positions = torch.tensor([tree.base + tree.lengths[number] for number in numbers], device=device)
        rows = torch.tensor(list(numbers), device=device)
        new = tree.sees.new_zeros(len(tree.lengths), n)
        new[rows, torch.arange(n, device=device)] = True
        self._sees = torch.cat([tree.sees, new], dim=1)
        self._tree, self._numbers = tree, list(numbers)
        self._visible = self._sees.index_select(0, rows)
        self._places = torch.cat([tree.places, self.positions])
        self._reached: dict[tuple[int | None, int | None], tuple[int, torch.Tensor | None, torch.Tensor]] = {}

    def written(self, layer: int, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Put the states ``[1, H, N, D]`` of all rows behind what the tree holds."""
        self._tree.written(layer, (key_states[0], value_states[0]))

    def done(self) -> None:
        """Take note that all rows have run: only now the sequences are longer."""
        self._tree.grown(self._sees, self.positions, self._numbers)

    def attending(self, capabilities: Capabilities) -> Policy:
        """Return how the rows attend in each layer."""

        def attend(seen: Attention) -> torch.Tensor:
            device = seen.query.device
            first, lower, mask = self._reach(*capabilities.reach(seen.layer))
            keys, values = self._tree.read(seen.layer, len(self._places))
            return shared_prefix_attention(
                seen.query,
                list(pieces_from(self._tree.pieces, first, seen.layer)),
                (keys[None], values[None]),
                lower=None if lower is None else lower.to(device),
                mask=mask.to(device),
                scale=seen.scale,
                softcap=seen.softcap,
                sinks=seen.sinks,
            )[0]

        return attend

    def _reach(self, window: int | None, chunk: int | None) -> tuple[int, torch.Tensor | None, torch.Tensor]:
        """Return the first shared key that any row sees, from there the first of each row, and what of the tree."""
        if (window, chunk) not in self._reached:
            lower, _ = edges(self.positions, window, chunk)
            mask = self._visible & (self._places >= lower[:, None])
            first = min(int(lower.min()), self._tree.base)
            lower = lower - first
            self._reached[window, chunk] = first, lower if bool(lower.any()) else None, mask
        return self._reached[window, chunk]


def run(adapter: ModelAdapter, rows: SharedPass, work: Work | None = None) -> torch.Tensor:
    """Run ``rows``, one of each sequence; return the logits ``[N, V]`` after each. Needs ``adapter.packs``.

    If it raises, no sequence is longer than before.
    """
    cache, every = PackedCache(adapter.n_layers), torch.arange(len(rows.ids), device=adapter.device)
    with cache.running(rows, adapter.config, adapter.capabilities):
        return adapter.model_forward.run(rows.ids, rows.positions, cache, keep=every, work=work)
