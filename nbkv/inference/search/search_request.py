"""The request that a search is: one prompt, of whose answers the best becomes its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from nbkv.events import Reused, Started
from nbkv.inference.run import RequestRun
from nbkv.models.caches.base import SequenceCache
from nbkv.models.work import Work
from nbkv.prompts.text_stream import TextStream
from nbkv.result import Provenance, Result
from nbkv.strategy import Prefilled


class _TreeBytes(SequenceCache):
    """What a result asks of a sequence of the tree: the bytes of its own K/V, and the most that the search held."""

    def __init__(self, nbytes: int, peak: int) -> None:
        self._nbytes, self._peak = nbytes, peak

    def held_bytes(self) -> int:
        """Return the bytes of the K/V of its tokens, shared ones included."""
        return self._nbytes

    def peak_bytes(self) -> int:
        """Return the most bytes of K/V that were held at any moment."""
        return self._peak


@dataclass
class SearchRequest(RequestRun):
    """A request whose answers are decoded together, by others."""

    _decode: Work = field(default_factory=Work)
    _matched: int = 0

    def began(self) -> None:
        """Take note that the request begins."""
        self._mark("start")
        self.ctx.tell(Started, strategy=self.strategy.spec, prompt=len(self.prompt.ids))

    def prefilled(self, matched: int) -> None:
        """Take note that the prompt has run but for its last token; the store had ``matched`` tokens of it."""
        self._mark("prefilled")
        self._matched = matched
        if matched:
            self.ctx.tell(Reused, start=0, stop=matched, tier=self.ctx.store.name)

    def passed(self, work: Work) -> None:
        """Take note of a pass over a token of each branch, and of its ``work``."""
        self._decode.token_layers += work.token_layers
        self._at_first = 1
        self._mark("token")

    def answered(self, tokens: Sequence[int], reason: str, *, peak: int, notes: Sequence[str]) -> Result:
        """Return the result whose answer is ``tokens``; ``peak`` are the most bytes of K/V that the search held.

        What all other branches took is in its ``compute.decode``.
        """
        text = TextStream(self.ctx.codec, self.sampling.stop)
        for token in tokens:
            text.add(token)
        n, adapter = len(self.prompt.ids), self.ctx.adapter
        provenance = np.full(n, Provenance.FRESH, dtype=np.uint8)
        provenance[: self._matched] = Provenance.PREFIX
        size = _TreeBytes(adapter.token_bytes * (n + max(0, len(tokens) - 1)), peak)
        made = Prefilled(cache=size, logits=torch.empty(0), provenance=provenance, notes=list(notes))
        made.rows.token_layers = (n - self._matched) * adapter.n_layers
        made.decode, made.decoded = [self._decode], len(tokens)  # the prompt's last token is among that work
        self._tokens = list(tokens)
        self._finish(reason, text, made)
        assert self.result is not None  # noqa: S101
        return self.result
