"""One call of a model's own forward: with which arguments, over which layers, in evaluation mode."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from nbkv.models.attention.masks import Mask
from nbkv.models.caches.base import SequenceCache
from nbkv.models.identity.fingerprint import Identity
from nbkv.models.walk import LayerRange, Runner, Walk
from nbkv.models.work import Unfollowed, Work


@dataclass(eq=False)
class Forward:
    """The forward of ``model``; through its layers one by one where there is a ``walk``.

    ``tells_positions``: positions are given explicitly, counted from 0.
    """

    model: PreTrainedModel
    walk: Walk | None
    identity: Identity
    n_layers: int
    tells_positions: bool

    def __post_init__(self) -> None:
        """Learn which optional arguments the forward takes."""
        inside = getattr(
            self.model, "get_base_model", lambda: self.model
        )()  # a PEFT wrapper passes everything on to it
        self._accepts = frozenset(inspect.signature(inside.forward).parameters)
        lengths = (module for module in self.model.modules() if hasattr(module, "max_seq_len_cached"))
        self._growing = [module for module in lengths if "dynamic" in str(getattr(module, "rope_type", ""))]

    @property
    def keeps_states(self) -> bool:
        """Return whether it takes a cache of states instead of past keys and values."""
        return "past_key_values" not in self._accepts and bool({"cache_params", "state"} & self._accepts)

    @property
    def takes_positions(self) -> bool:
        """Return whether it can be told the positions of its tokens."""
        return "position_ids" in self._accepts

    @property
    def cache_name(self) -> str:
        """Return which argument takes the cache."""
        if not self.keeps_states:
            return "past_key_values"
        return "cache_params" if "cache_params" in self._accepts else "state"

    def run(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        cache: SequenceCache,
        *,
        keep: int | torch.Tensor = 1,
        mask: Mask | None = None,
        work: Work | None = None,
        layers: LayerRange | None = None,
        runner: Runner | None = None,
    ) -> torch.Tensor:
        """Call the model on tokens ``ids`` ``[n]`` at ``positions`` ``[n]``; return the last logits ``[keep, V]``.

        What the other passes are made of. ``keep`` may be the rows ``[k]`` whose logits are wanted. A ``mask`` takes
        the place of the model's own; ``layers`` other than all need the walk, and raise ``Halted`` where they end
        before the last.
        """
        asked: dict[str, Any] = {"input_ids": ids[None], "use_cache": cache.used_by_model}
        if cache.used_by_model:
            asked[self.cache_name] = cache.model_argument
        if self.tells_positions and "position_ids" in self._accepts:
            asked["position_ids"] = positions[None]
        if "logits_to_keep" in self._accepts:
            asked["logits_to_keep"] = keep
        if mask is not None:
            asked["attention_mask"] = mask
        stepping = self._stepping(work, layers, runner)
        if self._growing:
            self._forget_lengths()
        with torch.inference_mode(), self.evaluating(), stepping or nullcontext():
            given = self.model(**asked)
        cache.receive(given, self.cache_name)
        last = slice(-keep, None) if isinstance(keep, int) else _among(keep, given.logits.shape[1])
        logits: torch.Tensor = given.logits[0, last].clone()  # whoever processes them may write into them
        if work is not None and stepping is None:
            work.token_layers += len(ids) * self.n_layers
        return logits

    def _forget_lengths(self) -> None:
        """Have dynamic rotary angles depend on this pass alone: modules keep those of the longest pass so far."""
        for module in self._growing:
            for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
                prefix = name.removesuffix("max_seq_len_cached")
                if getattr(module, name) > module.original_max_seq_len:
                    setattr(module, name, module.original_max_seq_len)
                    first, now = getattr(module, f"{prefix}original_inv_freq"), getattr(module, f"{prefix}inv_freq")
                    setattr(module, f"{prefix}inv_freq", first.to(now.device))

    def _stepping(
        self, work: Work | None, layers: LayerRange | None, runner: Runner | None
    ) -> AbstractContextManager[None] | None:
        """Return in what a forward walks; None where it cannot, or nobody follows it and it runs all layers."""
        whole = isinstance(work, Unfollowed) and layers is None and runner is None
        return None if self.walk is None or whole else self.walk.stepping(work, layers, runner)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the block no part of the model is in training mode: no dropout."""
        if not (self.model.training or self.identity.training):
            yield
            return
        parts = [module for module in self.model.modules() if module.training]
        try:
            for module in parts:
                module.training = False
            yield
        finally:
            for module in parts:
                module.training = True


def _among(rows: torch.Tensor, given: int) -> slice | torch.Tensor:
    """Return where the logits of ``rows`` are among ``given`` ones: of all rows, or only of those asked for."""
    return slice(None) if given == len(rows) else rows
