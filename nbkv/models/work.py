"""What a pass does and where it stops: the layers' work, counted, and the input of the layer it goes on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch


@dataclass
class Work:
    """Counts what the layers did: ``token_layers`` is the sum over layers of the rows each was run on."""

    token_layers: int = 0
    on_layer: Callable[[int, int], None] | None = None

    def __call__(self, index: int, rows: int) -> None:
        """Count ``rows`` tokens through layer ``index``, then tell whoever follows the layers."""
        self.token_layers += rows
        if self.on_layer is not None:
            self.on_layer(index, rows)


@dataclass
class Unfollowed(Work):
    """Counts as well, but nobody follows the layers: a pass through all of them is the model's own forward."""


@dataclass(frozen=True, eq=False)
class LayerInput:
    """Hidden states ``[..., rows, H]`` of some rows, which ``layer`` is given next.

    ``known``: their K/V in ``layer`` were made too, and counted as if that layer had run.
    """

    hidden: torch.Tensor
    layer: int
    known: bool = False

    def keep(self, which: torch.Tensor) -> LayerInput:
        """Return the input of the rows at indices ``which`` of these."""
        return replace(self, hidden=self.hidden.index_select(-2, which.to(self.hidden.device)))


def begin(since: LayerInput | None, work: Work | None) -> tuple[int, torch.Tensor | None]:
    """Return the first layer that a pass going on from ``since`` runs, and its input (None: the embeddings).

    A layer that made its K/V was counted then, and is not counted twice.
    """
    if since is None:
        return 0, None
    if since.known and work is not None:
        work.token_layers -= since.hidden.shape[-2]
    return since.layer, since.hidden
