"""The golden self-check: what a model computes through nbkv against what it computes by itself."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from nbkv.events import Bus
from nbkv.models.prompt import Prompt
from nbkv.running import Engine
from nbkv.stores.memory import MemoryStore
from nbkv.strategy import Prefilled, Request, Strategy

if TYPE_CHECKING:
    import pandas as pd

_TOKENS = 48
_TAIL = 16  # tokens that differ between two prompts which share the rest
_FP32_LIMIT = 1e-4


@dataclass(frozen=True)
class Report:
    """What was checked: rows of ``check``, ``error`` (largest scaled logit difference), ``limit``, ``ok``, ``note``."""

    model: str
    strategy: str
    rows: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        """Return whether everything passed."""
        return all(row["ok"] for row in self.rows)

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
        return str(importlib.import_module("nbkv.show").report_text(self.to_dict()))

    def _repr_html_(self) -> str:
        return str(importlib.import_module("nbkv.show").report_html(self.to_dict()))


def verify(engine: Engine, strategy: Strategy) -> Report:
    """Return the checks of ``strategy`` on ``engine``'s model, run on made-up prompts in a store of their own."""
    adapter = engine.adapter
    scratch = replace(engine, store=MemoryStore(limit=2**40), bus=Bus())
    first, second = _prompts(adapter.config.vocab_size, adapter.capabilities.context)
    plain = {ids: _plain(engine, ids) for ids in (first, second)}
    limit = _FP32_LIMIT if adapter.dtype == torch.float32 else _half_limit(engine, first, plain[first])
    rows = [
        _row("full pass", _error(_prefill(scratch, Strategy(), first).logits, plain[first]), limit),
    ]
    tested = strategy if strategy.exact else strategy.at_full_budget()
    if tested is None:
        rows.append({"check": "strategy", "error": None, "limit": limit, "ok": True, "note": "has no full budget"})
        return Report(adapter.name, strategy.spec, tuple(rows))
    for name, ids in (("cold", first), ("again", first), ("branch", second), ("back to the first", first)):
        prefilled = _prefill(scratch, tested, ids)
        note = f"{int((prefilled.provenance == 0).sum())} of {len(ids)} tokens fresh"
        rows.append(_row(f"{tested.spec}: {name}", _error(prefilled.logits, plain[ids]), limit, note))
    return Report(adapter.name, strategy.spec, tuple(rows))


def _prompts(vocabulary: int, context: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    length = min(_TOKENS, context - 1)
    first = tuple((7919 * i) % vocabulary for i in range(1, length + 1))
    tail = min(_TAIL, length // 2)
    return first, (*first[: length - tail], *((104729 * i) % vocabulary for i in range(1, tail + 1)))


def _prefill(engine: Engine, strategy: Strategy, ids: tuple[int, ...]) -> Prefilled:
    ctx, request = engine.context(), Request(Prompt(ids), 1)
    prefilled = strategy.prefill(request, ctx)
    strategy.commit(prefilled, ids, request, ctx)
    return prefilled


def _plain(engine: Engine, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad(), engine.adapter.evaluating():
        logits: torch.Tensor = engine.adapter.model(engine.adapter.tensor(ids)[None]).logits[0, -1]
    return logits


def _half_limit(engine: Engine, ids: tuple[int, ...], plain: torch.Tensor) -> float:
    """Return twice the error of the model's own pass when it is split where ``branch`` splits it (house rule 1)."""
    cache = engine.adapter.new_cache()
    at = len(ids) - _TAIL
    engine.adapter.forward(engine.adapter.tensor(ids[:at]), cache, start=0)
    logits = engine.adapter.forward(engine.adapter.tensor(ids[at:]), cache, start=at)[-1]
    rounding = float(torch.finfo(engine.adapter.dtype).eps)
    return max(2 * _error(logits, plain), rounding)


def _error(got: torch.Tensor, expected: torch.Tensor) -> float:
    difference = (got.float() - expected.float()).abs().max()
    return float(difference / expected.float().abs().max().clamp(min=1.0))


def _row(check: str, error: float, limit: float, note: str = "") -> dict[str, Any]:
    return {"check": check, "error": error, "limit": limit, "ok": error <= limit, "note": note}
