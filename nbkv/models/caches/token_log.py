"""No cache at all: where a family's own one cannot be trusted, every pass runs all tokens so far."""

from __future__ import annotations

from typing import ClassVar

import torch

from nbkv.models.caches.base import SequenceCache


class TokenLog(SequenceCache):
    """The tokens so far, run again in each pass; the model is given no cache."""

    used_by_model: ClassVar[bool] = False

    def __init__(self) -> None:
        """Start empty."""
        self.ids: list[torch.Tensor] = []

    def rows_to_run(self, ids: torch.Tensor, start: int) -> tuple[torch.Tensor, int]:  # noqa: ARG002
        """Add ``ids`` ``[n]``; return all tokens so far, from position 0 on."""
        self.ids.append(ids)
        return torch.cat(self.ids), 0

    @property
    def length(self) -> int:
        """Return the number of tokens."""
        return sum(map(len, self.ids))

    def truncate(self, length: int) -> None:
        """Keep the first ``length`` tokens."""
        self.ids = [torch.cat(self.ids)[:length]] if self.ids else []
