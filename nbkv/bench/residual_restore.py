"""``residual.restore``: what the restore planner picks, beside every other form, measured on the same tokens.

A model with as many K/V heads as query heads and one with few of them: where a layer's input is smaller than its K and
V, and where it is larger. The planner looks at few tokens only; here all forms restore the full number.
"""

from __future__ import annotations

import statistics

import torch

import nbkv
from nbkv.bench.agreement import reference
from nbkv.bench.measure import WARM_UP, BenchRow
from nbkv.bench.models import Bench, make
from nbkv.families.residual.forms import parse
from nbkv.families.residual.planner import FormCost, Plan, eligible, plan, random_sequence, restore_seconds
from nbkv.models.adapter import ModelAdapter
from nbkv.timing import settle, timed

NAME, CONTEXT, SAMPLE = "residual.restore", 4096, 256
SHAPES = ("s06-mha", "s06-gqa")
NEW, KEPT = 6, 16
FULL, SAME_TIER = "full prefill", "K/V copied from host memory"


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no peer restores)
    """Measure the planner's pick against the fastest form, a full prefill, and K/V from the host."""
    rows: list[BenchRow] = []
    for each in (shape,) if shape else SHAPES:
        rows += _run(make(each, torch.float32), context or CONTEXT, rounds)
    return rows


def _run(bench: Bench, context: int, rounds: int) -> list[BenchRow]:
    regime = bench.regime(tokens=context, rounds=rounds)
    with nbkv.load(bench.model, tokenizer=bench.tokenizer, strategy="full") as session:
        found = plan(session.adapter, min(SAMPLE, context))
        if why := _differs(bench, session, found, min(SAMPLE, context)):
            return [BenchRow(name=NAME, regime=regime, against=FULL, strategy=found.pick, refused=why)]
        seconds = _seconds(session.adapter, found, bench.ids(context, seed=1), rounds)
    fastest = min((each for each in eligible(found.ways, found.kv_bytes)), key=lambda each: seconds[each.form]).form
    notes = tuple(_note(each, found, seconds) for each in found.ways)
    against = {f"the fastest measured form, {fastest}": fastest, FULL: FULL, SAME_TIER: "host"}
    ours = seconds[found.pick]
    return [
        BenchRow(
            name=NAME,
            regime=regime,
            against=name,
            baseline=seconds[other],
            ours=ours,
            strategy=f"residual({found.pick})",
            notes=notes if other == fastest else (),
        )
        for name, other in against.items()
    ]


def _differs(bench: Bench, session: nbkv.Session, found: Plan, context: int) -> str:
    """Return why the pick, or a form it is measured against, gives another answer than plain transformers."""
    ids = bench.ids(context, seed=2)
    wanted = reference(bench.model, ids, NEW, split=context - 1)
    for each in eligible(found.ways, found.kv_bytes):
        strategy = f"residual(keep={KEPT}, form={each.form!r})"
        tokens = session.generate(bench.text(ids), max_new_tokens=NEW, strategy=strategy).token_ids
        if why := wanted.differs(tokens):
            return f"{strategy}: {why}"
    return ""


def _seconds(adapter: ModelAdapter, found: Plan, ids: list[int], rounds: int) -> dict[str, float]:
    """Return the median seconds of a restoration for each form that is not refused, and of a full prefill."""
    names = [each.form for each in found.ways if not each.refused]
    seconds: dict[str, list[float]] = {name: [] for name in (*names, FULL)}
    for number in range(WARM_UP + rounds):
        for name in names:  # made anew each time: all forms at once would not fit on a device
            took = restore_seconds(random_sequence(adapter, parse(name, adapter.n_layers), len(ids)))
            if number >= WARM_UP:
                seconds[name].append(took)
        took = _prefill(adapter, ids)
        if number >= WARM_UP:
            seconds[FULL].append(took)
    return {name: statistics.median(each) for name, each in seconds.items()}


def _prefill(adapter: ModelAdapter, ids: list[int]) -> float:
    settle(adapter)
    clock = timed()
    adapter.forward(adapter.tensor(ids), adapter.new_cache(len(ids)), start=0)
    settle(adapter)
    return clock()


def _note(way: FormCost, found: Plan, seconds: dict[str, float]) -> str:
    share = f"{way.token_bytes:,} B a token = {way.token_bytes / found.kv_bytes:.2f} x K/V"
    if way.refused:
        return f"{way.form}: refused, {way.refused}"
    kind = "" if way.exact else ", approximate"
    return f"{way.form}: {seconds[way.form] * 1000:.1f} ms, {share}{kind}"
