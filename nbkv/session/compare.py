"""One prompt, several strategies: interleaved runs over the same store, medians, and distance to full."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from nbkv.context import Context
from nbkv.errors import BadOption
from nbkv.fidelity import fidelity
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.models.sampling import Sampling
from nbkv.prompts.prompt import Prompt
from nbkv.result import Comparison, Result
from nbkv.session.measure import greedy, noise_floor
from nbkv.stopping import Stopped
from nbkv.strategy import Strategy, parse


def check_repeat(repeat: object) -> None:
    """Raise ``BadOption`` unless ``repeat`` is a whole number >= 1."""
    if isinstance(repeat, bool) or not isinstance(repeat, int) or repeat < 1:
        message = f"repeat={repeat!r} is not accepted: repeat is a whole number >= 1"
        raise BadOption(message)


def compare(ctx: Context, strategies: Sequence[Strategy], prompt: Prompt, wanted: Sampling, repeat: int) -> Comparison:
    """Return the comparison of ``strategies`` (``full`` is added in front if absent) on ``prompt``."""
    full = parse("full")
    others = [strategy for strategy in strategies if strategy.spec != full.spec]
    chosen = [full, *{strategy.spec: strategy for strategy in others}.values()]
    runs: dict[str, list[Result]] = {strategy.spec: [] for strategy in chosen}
    for _ in range(repeat):
        for strategy in chosen:
            runs[strategy.spec].append(_once(ctx, strategy, prompt, wanted))
    picked = greedy(ctx, prompt)
    reference = follow(RequestRun(ctx, full, prompt, wanted), picked)
    floor = noise_floor(ctx, prompt, picked, reference)
    results = []
    for strategy in chosen:
        own = reference if strategy is full else follow(RequestRun(ctx, strategy, prompt, wanted), picked)
        results.append(replace(_median(runs[strategy.spec]), fidelity=fidelity(reference, own, floor)))
    rows = tuple(_row(result, runs[result.strategy], runs[full.spec]) for result in results)
    return Comparison(
        model=ctx.adapter.name, prompt_tokens=len(prompt.ids), repeat=repeat, rows=rows, results=tuple(results)
    )


def _once(ctx: Context, strategy: Strategy, prompt: Prompt, wanted: Sampling) -> Result:
    run = RequestRun(ctx, strategy, prompt, wanted, keep=False)
    for _ in run.pieces():
        pass
    assert run.result is not None  # noqa: S101
    if run.result.finish_reason == "interrupted":
        raise Stopped
    return run.result


def _median(results: list[Result]) -> Result:
    """Return the run whose time to first token is the median one."""
    return sorted(results, key=lambda result: result.timing.ttft_s)[len(results) // 2]


def _row(result: Result, own: list[Result], full: list[Result]) -> dict[str, Any]:
    timings = [asdict(each.timing) for each in own]
    medians = {name: statistics.median(timing[name] for timing in timings) for name in timings[0]}
    reference = statistics.median(each.timing.ttft_s for each in full)
    assert result.fidelity is not None  # noqa: S101
    return {
        "strategy": result.strategy,
        **medians,
        "speedup": reference / medians["ttft_s"] if medians["ttft_s"] else 0.0,
        "hit_rate": result.hit_rate,
        "reused": result.tokens.reused,
        "recomputed": result.tokens.recomputed,
        "fresh": result.tokens.fresh,
        "compute_share": result.compute.share,
        "kl": result.fidelity.kl,
        "kl_max": result.fidelity.kl_max,
        "top1": result.fidelity.top1,
        "diverges_at": result.fidelity.diverges_at,
        "floor": result.fidelity.floor,
        "same_text": result.token_ids == full[0].token_ids,
        "text": result.text,
        "notes": "; ".join(result.notes),
    }
