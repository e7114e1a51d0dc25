"""How the rows of a pass attend by their true positions: under a mask, or over ranges of keys where that is proved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from nbkv.models.attention import masks
from nbkv.models.attention.grouped import grouped
from nbkv.models.attention.intercept import implementation
from nbkv.models.attention.masks import Mask
from nbkv.models.attention.ranges import ranged, reads_once
from nbkv.models.capabilities import Capabilities

_NO_MASK = nullcontext()  # one for all tokens


@dataclass(eq=False)
class PassAttention:
    """The attention of one ``model``, which has these ``capabilities`` and computes in ``dtype`` on ``device``."""

    model: PreTrainedModel
    capabilities: Capabilities
    dtype: torch.dtype
    device: torch.device

    @property
    def config(self) -> Any:  # noqa: ANN401  (each family has its own class)
        """Return the config of the text decoder."""
        return self.model.config.get_text_config()

    @contextmanager
    def by_position(self, rows: torch.Tensor, n_keys: int) -> Iterator[Mask | None]:
        """Within the block rows at positions ``rows`` ``[n]`` attend to every key up to their own, whatever wrote it.

        It gives the mask over ``n_keys`` keys; None where attention is computed over ranges of keys instead.
        """
        if self.capabilities.ranges:
            with ranged(self.config, rows, self.capabilities):
                yield None
        else:
            yield self.mask(rows, n_keys)

    def mask(self, rows: torch.Tensor, n_keys: int) -> Mask:
        """Return the mask of ``rows`` ``[n]`` over ``n_keys`` keys in the form the attention in use takes."""
        eager = implementation(self.config) == "eager"
        return masks.by_position(rows, n_keys, self.capabilities, self.dtype if eager else None)

    def appended(self, rows: torch.Tensor, n_keys: int) -> AbstractContextManager[Mask | None]:
        """Return how rows appended to a cache attend: by diffusion blocks, or as the model itself does (no mask)."""
        if self.capabilities.block is not None:
            return self.by_position(rows, n_keys)
        return grouped(self.config) if self._copies_keys(rows) else _NO_MASK

    def _copies_keys(self, rows: torch.Tensor) -> bool:
        """Return whether the model's own attention, under a mask, copies keys for each query head without need.

        A single row has its keys read as they are.
        """
        known, own = self.capabilities, self.config._attn_implementation  # noqa: SLF001  (where nothing replaces it)
        return self.device.type == "cpu" and len(rows) > 1 and known.ranges and known.groups > 1 and own == "sdpa"

    def reads_once(self, rows: torch.Tensor, n_keys: int) -> bool:
        """Return whether a single row over ``n_keys`` keys, one after another in memory, is quicker over ranges."""
        if len(rows) != 1 or self.device.type != "cpu":
            return False
        # who asks for eager attention may want to see its weights
        return implementation(self.config) != "eager" and reads_once(self.capabilities, self.dtype, n_keys)
