"""The golden self-check: what a model computes through nbkv against what it computes by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nbkv import show
from nbkv.context import Context, Request
from nbkv.errors import UnsupportedModel
from nbkv.events import Bus
from nbkv.models.adapter import AnyCache, ModelAdapter
from nbkv.models.capabilities import Capabilities
from nbkv.models.diffusion.block import opened
from nbkv.models.probing.rotary import alone, looked_at
from nbkv.prompts.prompt import Prompt
from nbkv.stores.base import Scratch
from nbkv.stores.memory import MemoryStore
from nbkv.strategy import Prefilled, Strategy

if TYPE_CHECKING:
    import pandas as pd

_TOKENS = 48
_BLOCKS = 3  # and at least so many diffusion blocks
_RAGGED = 3  # tokens of a prompt that fill no diffusion block
_TAIL = 16  # tokens that differ between two prompts which share the rest
_FP32_LIMIT = 1e-4
_FARTHEST = 32_768  # tokens; keys are moved at most to here
_SINGLE = 4  # tokens looked at, each alone


@dataclass(frozen=True)
class Report:
    """What was checked.

    Rows of ``strategy`` (empty: the model itself), ``check``, ``error`` (the largest scaled difference; None if there
    is nothing to check), ``limit``, ``ok`` and ``note``.
    """

    model: str
    strategy: str
    rows: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        """Return whether everything passed."""
        return all(row["ok"] for row in self.rows)

    def failed(self, spec: str) -> str:
        """Return the first check of the model or of strategy ``spec`` that failed; empty if none did."""
        own = [row for row in self.rows if row["strategy"] in {"", spec} and not row["ok"]]
        return f"{own[0]['check']}: error {own[0]['error']:.1e}, limit {own[0]['limit']:.1e}" if own else ""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-able data."""
        return {
            "kind": "report",
            "model": self.model,
            "strategy": self.strategy,
            "ok": self.ok,
            "rows": list(self.rows),
        }

    def to_frame(self) -> pd.DataFrame:
        """Return one row a check."""
        import pandas as pd  # noqa: PLC0415  (heavy, only for tables)

        return pd.DataFrame(list(self.rows))

    def __repr__(self) -> str:
        """Return the table as text."""
        return show.report_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.report_html(self.to_dict())


def verify(ctx: Context, strategies: Sequence[Strategy]) -> Report:
    """Return the checks of ``ctx``'s model and of ``strategies`` on it, on made-up prompts in a store of their own.

    A strategy the model cannot serve is a row that says why; it fails nothing.
    """
    adapter = ctx.adapter
    scratch = replace(ctx, store=MemoryStore(limit=2**40), bus=Bus(), scratch=Scratch())
    first, second = _prompts(adapter.config.vocab_size, adapter.capabilities)
    plain = {ids: _plain(ctx, ids) for ids in (first, second)}
    limit = _FP32_LIMIT if adapter.dtype == torch.float32 else _half_limit(ctx, first, plain[first])
    rows = [
        _row("full pass", _error(_prefill(scratch, Strategy(), first).logits, plain[first]), limit, _how(adapter)),
        _cut(scratch, first, plain[first], limit),
        _moved(adapter, first, limit),
    ]
    for strategy in strategies:
        rows.extend(_strategy_rows(scratch, strategy, plain, limit))
    return Report(adapter.name, ", ".join(strategy.spec for strategy in strategies), tuple(rows))


def _strategy_rows(
    ctx: Context, strategy: Strategy, plain: dict[tuple[int, ...], torch.Tensor], limit: float
) -> list[dict[str, Any]]:
    try:
        strategy.check(ctx.adapter)
    except UnsupportedModel as refusal:
        return [_unchecked(strategy.spec, limit, f"refused: {refusal}", strategy.spec)]
    tested = strategy if strategy.exact else strategy.at_full_budget()
    if tested is None:
        return [_unchecked(strategy.spec, limit, "has no full budget at which it would equal full", strategy.spec)]
    first, second = plain
    rows = []
    for name, ids in (("cold", first), ("again", first), ("branch", second), ("back to the first", first)):
        prefilled = _prefill(ctx, tested, ids)
        note = f"{int((prefilled.provenance == 0).sum())} of {len(ids)} tokens fresh"
        error = _error(prefilled.logits, plain[ids])
        rows.append(_row(f"{tested.spec}: {name}", error, limit, note, strategy.spec))
    return rows


def _how(adapter: ModelAdapter) -> str:
    return "through the layer walk" if adapter.walk else "plain forward: the layers cannot be walked"


def _cut(ctx: Context, ids: tuple[int, ...], plain: torch.Tensor, limit: float) -> dict[str, Any]:
    """Check a pass that goes on from cached tokens: several at once where prefixes are reused, else token by token."""
    adapter = ctx.adapter
    cache, at = adapter.new_cache(), adapter.capabilities.whole(len(ids) // 2)
    several = adapter.capabilities.prefix or adapter.capabilities.block is not None
    stops = [len(ids)] if several else range(at + 1, len(ids) + 1)
    logits = adapter.prefill(ids[:at], cache)
    for stop in stops:
        logits = adapter.prefill(ids[:stop], cache, start=at)
        at = stop
    return _row("from a cache", _error(_after(ctx, ids, cache, logits), plain), limit, type(cache).__name__)


def _after(ctx: Context, ids: tuple[int, ...], cache: AnyCache, logits: torch.Tensor) -> torch.Tensor:
    """Return the logits of the token after ``ids``, which ``cache`` holds and whose last row gave ``logits``."""
    prefilled = Prefilled(cache=cache, logits=logits, provenance=np.zeros(len(ids), dtype=np.uint8))
    return Strategy().opening(prefilled, Request(Prompt(ids), 1), ctx)


def _moved(adapter: ModelAdapter, ids: tuple[int, ...], limit: float) -> dict[str, Any]:
    """Check keys moved to later positions against keys that were made there, of tokens alone in their context.

    In a longer context the model itself differs from place to place: it rounds its angles to its own precision.
    """
    if adapter.rope is None:
        return _unchecked("relocation", limit, f"refused: {adapter.capabilities.why_not('relocation')}")
    positions = looked_at(adapter, _FARTHEST)
    keys, _ = alone(adapter, adapter.tensor(ids[:_SINGLE]), positions)
    at_zero = [layer[0][:, :, None].expand(-1, -1, len(positions), -1) for layer in keys]
    moved = adapter.rope.keys(at_zero, torch.zeros_like(positions), positions)
    pairs = zip(moved, (layer.permute(1, 2, 0, 3) for layer in keys), strict=True)
    worst = max(_error(got, want) for got, want in pairs if want.numel())
    return _row("relocation", worst, limit, f"keys moved by up to {int(positions[-1])} positions")


def _prompts(vocabulary: int, known: Capabilities) -> tuple[tuple[int, ...], tuple[int, ...]]:
    length = min(max(_TOKENS, _BLOCKS * (known.block or 0)) + _RAGGED * (not known.causal), known.context - 1)
    first = tuple((7919 * i) % vocabulary for i in range(1, length + 1))
    tail = min(_TAIL, length // 2)
    return first, (*first[: length - tail], *((104729 * i) % vocabulary for i in range(1, tail + 1)))


def _prefill(ctx: Context, strategy: Strategy, ids: tuple[int, ...]) -> Prefilled:
    request = Request(Prompt(ids), 1)
    prefilled = strategy.prefill(request, ctx)
    prefilled.logits = strategy.opening(prefilled, request, ctx)
    strategy.commit(prefilled, ids, request, ctx)
    return prefilled


def _plain(ctx: Context, ids: tuple[int, ...]) -> torch.Tensor:
    """Return the logits ``[V]`` of the token after ``ids`` by the model's own forward over all of them at once."""
    adapter, recipe = ctx.adapter, ctx.adapter.recipe
    if adapter.canvas is not None:
        return adapter.canvas.plain(adapter.tensor(ids), adapter.canvas.opened(len(ids)))[0]
    if recipe is None:
        return adapter.plain(adapter.tensor(ids))[-1]
    block = opened(ids, recipe, adapter.device)
    logits = adapter.plain(torch.cat([adapter.tensor(ids[: block.start]), block.ids]))
    return logits[len(ids) - recipe.shifted]


def _half_limit(ctx: Context, ids: tuple[int, ...], plain: torch.Tensor) -> float:
    """Return twice the error of the model's own pass when it is split where ``branch`` splits it (house rule 1)."""
    adapter, cache = ctx.adapter, ctx.adapter.new_cache()
    at = adapter.capabilities.whole(len(ids) - _TAIL)
    adapter.prefill(ids[:at], cache)
    logits = adapter.prefill(ids, cache, start=at)
    rounding = 4 * float(torch.finfo(adapter.dtype).eps)
    return max(2 * _error(_after(ctx, ids, cache, logits), plain), rounding)


def _error(got: torch.Tensor, expected: torch.Tensor) -> float:
    difference = (got.float() - expected.float()).abs().max()
    return float(difference / expected.float().abs().max().clamp(min=1.0))


def _unchecked(check: str, limit: float, note: str, strategy: str = "") -> dict[str, Any]:
    return {"strategy": strategy, "check": check, "error": None, "limit": limit, "ok": True, "note": note}


def _row(check: str, error: float, limit: float, note: str, strategy: str = "") -> dict[str, Any]:
    return {"strategy": strategy, "check": check, "error": error, "limit": limit, "ok": error <= limit, "note": note}
