"""One prompt, several strategies: interleaved runs over the same store, medians, and distance to full."""

from __future__ import annotations

import statistics
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace
from typing import Any

from nbkv.context import Context
from nbkv.events import Bus
from nbkv.fidelity import fidelity
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.models.sampling import Sampling
from nbkv.prompts.prompt import Prompt
from nbkv.result import Comparison, Fidelity, Result
from nbkv.session.measure import greedy, noise_floor
from nbkv.stopping import Stopped
from nbkv.strategy import Strategy, parse


def compare(ctx: Context, strategies: Sequence[Strategy], prompt: Prompt, wanted: Sampling, repeat: int) -> Comparison:
    """Return the comparison of ``strategies`` (``full`` is added in front if absent) on ``prompt``.

    A stop ends it early: the rows are those of the runs there were, and ``stopped`` says how far it came.
    """
    work = ComparisonRun(ctx, strategies, prompt, wanted, repeat)
    return work.table(ctx.carry_out(work))


class ComparisonRun:
    """A comparison under way: ``steps`` runs it, ``table`` is what there is so far.

    What it runs is told as steps of the comparison, not as requests.
    """

    work = "compare"

    def __init__(
        self, ctx: Context, strategies: Sequence[Strategy], prompt: Prompt, wanted: Sampling, repeat: int
    ) -> None:
        """Run nothing yet."""
        self._full = parse("full")
        others = [strategy for strategy in strategies if strategy.spec != self._full.spec]
        self._chosen = [self._full, *{strategy.spec: strategy for strategy in others}.values()]
        self._ctx, self._prompt, self._wanted, self._repeat = replace(ctx, bus=Bus()), prompt, wanted, repeat
        self._runs: dict[str, list[Result]] = {strategy.spec: [] for strategy in self._chosen}
        self._distances: dict[str, Fidelity] = {}

    @property
    def total(self) -> int:
        """Return the number of steps: every run, full's own answer, and every distance to it."""
        return (self._repeat + 1) * len(self._chosen) + 1

    def steps(self) -> Generator[str]:
        """Run every strategy in turn, ``repeat`` times, then measure each against full's greedy answer."""
        ctx, prompt, wanted = self._ctx, self._prompt, self._wanted
        for turn in range(1, self._repeat + 1):
            for strategy in self._chosen:
                yield f"{strategy.spec}{f', run {turn} of {self._repeat}' if self._repeat > 1 else ''}"
                self._runs[strategy.spec].append(_once(ctx, strategy, prompt, wanted))
        yield "full's own answer"
        picked = greedy(ctx, prompt)
        reference, floor = None, 0.0
        for strategy in self._chosen:
            yield f"distance of {strategy.spec} to full"
            own = follow(RequestRun(ctx, strategy, prompt, wanted), picked)
            if reference is None:
                reference, floor = own, noise_floor(ctx, prompt, picked, own)
            self._distances[strategy.spec] = fidelity(reference, own, floor)

    def table(self, stopped: str = "") -> Comparison:
        """Return one row for each strategy that has run; ``stopped`` says why it may not be all."""
        results = [replace(_median(own), fidelity=self._distances.get(spec)) for spec, own in self._runs.items() if own]
        full = self._runs[self._full.spec]
        return Comparison(
            model=self._ctx.adapter.name,
            prompt_tokens=len(self._prompt.ids),
            repeat=self._repeat,
            rows=tuple(_row(result, self._runs[result.strategy], full) for result in results),
            results=tuple(results),
            stopped=stopped,
        )

    def found(self) -> dict[str, Any]:
        """Return the rows so far."""
        return self.table().to_dict()


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
    measured = ("kl", "kl_max", "top1", "diverges_at", "floor")
    return {
        "strategy": result.strategy,
        **medians,
        "speedup": reference / medians["ttft_s"] if medians["ttft_s"] else 0.0,
        "hit_rate": result.hit_rate,
        "reused": result.tokens.reused,
        "recomputed": result.tokens.recomputed,
        "fresh": result.tokens.fresh,
        "compute_share": result.compute.share,
        **{name: getattr(result.fidelity, name, None) for name in measured},
        "same_text": result.token_ids == full[0].token_ids,
        "text": result.text,
        "notes": "; ".join(result.notes),
    }
