"""The forwards a strategy consists of: recorded as it runs, and run again with nothing around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.work import LayerInput
from nbkv.models.work import Work as Counter


@dataclass(frozen=True, eq=False)
class Pass:
    """Rows ``[n]`` at their positions through layers ``[start, stop)``.

    ``kept`` are the indices of these rows among those of the pass it goes on from; None: all, or it begins anew.
    ``looks``: in the last of these layers they had their K/V made and no more. ``known``: they go on from such a pass,
    so their first layer is counted already.
    """

    rows: torch.Tensor
    start: int
    stop: int
    kept: torch.Tensor | None = None
    looks: bool = False
    known: bool = False

    @classmethod
    def of_all(cls, n: int, adapter: ModelAdapter) -> Pass:
        """Return the pass that computes ``n`` tokens in full."""
        return cls(torch.arange(n, device=adapter.device), 0, adapter.n_layers)


@contextmanager
def recording(adapter: ModelAdapter) -> Iterator[list[Pass]]:
    """Within the block, note every pass over rows that ``adapter`` is asked for."""
    passes: list[Pass] = []

    def note(rows: torch.Tensor, since: LayerInput | None, stop: int) -> None:
        kept = None
        if since is not None and len(passes[-1].rows) != len(rows):
            kept = torch.isin(passes[-1].rows, rows).nonzero().flatten()
        begins = (0, False) if since is None else (since.layer, since.known)
        passes.append(Pass(rows, begins[0], stop, kept, known=begins[1]))

    def recompute(ids: torch.Tensor, rows: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401  (handed on)
        note(rows, kwargs.get("since"), adapter.n_layers)
        return ModelAdapter.recompute(adapter, ids, rows, *args, **kwargs)

    def advance(ids: torch.Tensor, rows: torch.Tensor, *args: Any, **kwargs: Any) -> LayerInput:  # noqa: ANN401  (handed on)
        note(rows, kwargs.get("since"), kwargs["stop"])
        return ModelAdapter.advance(adapter, ids, rows, *args, **kwargs)

    def advance_to_kv(ids: torch.Tensor, rows: torch.Tensor, *args: Any, **kwargs: Any) -> LayerInput:  # noqa: ANN401  (handed on)
        front = ModelAdapter.advance_to_kv(adapter, ids, rows, *args, **kwargs)  # asks for an advance
        passes[-1] = replace(passes[-1], looks=True)
        return front

    inside: dict[str, Any] = vars(adapter)
    inside.update(recompute=recompute, advance=advance, advance_to_kv=advance_to_kv)
    try:
        yield passes
    finally:
        del inside["recompute"], inside["advance"], inside["advance_to_kv"]


def run_again(adapter: ModelAdapter, ids: torch.Tensor, cache: GrowingCache, passes: Sequence[Pass]) -> torch.Tensor:
    """Run ``passes`` over ``cache``, which holds the whole prompt ``ids``; return the last pass's logits ``[V]``."""
    front: LayerInput | None = None
    logits = None
    for each in passes:
        since = front if each.start else None
        if since is not None and each.kept is not None:
            since = since.keep(each.kept)
        some: dict[str, Any] = {"since": since, "work": Counter()}
        if each.looks:
            front = adapter.advance_to_kv(ids[each.rows], each.rows, cache, layer=each.stop - 1, **some)
        elif each.stop < adapter.n_layers:
            front = adapter.advance(ids[each.rows], each.rows, cache, stop=each.stop, **some)
        else:
            logits = adapter.recompute(ids[each.rows], each.rows, cache, since=since)[-1]
    assert logits is not None  # noqa: S101  (every strategy ends with a pass through the last layer)
    return logits


def ready(adapter: ModelAdapter, ids: Sequence[int]) -> GrowingCache:
    """Return a cache that holds the exact KV of ``ids``."""
    cache = GrowingCache(len(ids))
    adapter.forward(adapter.tensor(ids), cache, start=0)
    return cache


def token_layers(passes: Sequence[Pass]) -> int:
    """Return the sum over layers of the rows that were run, each once; having K/V made counts as running."""
    return sum(len(each.rows) * (each.stop - each.start - each.known) for each in passes)


def flops(adapter: ModelAdapter, passes: Sequence[Pass]) -> float:
    """Return the multiplications and additions of ``passes``: matrices, and attention to the keys that may be seen."""
    assert adapter.walk is not None  # noqa: S101
    config = adapter.config
    matrices = [sum(p.numel() for p in layer.parameters() if p.dim() > 1) for layer in adapter.walk.layers]
    width = config.num_attention_heads * (getattr(config, "head_dim", None) or _head(config))
    total = 0.0
    for each in passes:
        seen = float((each.rows + 1).sum())
        whole = matrices[each.start : each.stop - each.looks]
        total += sum(2 * len(each.rows) * size + 4 * width * seen for size in whole)
        if each.looks:
            known, layer = adapter.capabilities, each.stop - 1
            sides = known.kv_heads[layer] * (known.key_dim[layer] + known.value_dim[layer])
            total += 2 * len(each.rows) * config.hidden_size * sides
        if each.stop == adapter.n_layers:
            total += 2 * config.hidden_size * config.vocab_size
    return total


def _head(config: Any) -> int:  # noqa: ANN401  (each family has its own class)
    return int(config.hidden_size // config.num_attention_heads)
