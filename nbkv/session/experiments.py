"""Experiments with a loaded model: strategies compared, a bound certified, self-checks, what holding KV costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from nbkv.context import Context, LongWork
from nbkv.errors import BadOption
from nbkv.families.residual.planner import Plan, Planning
from nbkv.prompts.prompt import PromptLike
from nbkv.result import Comparison
from nbkv.scalars import is_whole
from nbkv.session.arguments import built_prompt, chosen_strategy, spells_out_sampling, verdict_name, wanted_sampling
from nbkv.session.certificates.calibration import Question
from nbkv.session.certificates.certificate import Certificate, certify
from nbkv.session.certificates.guarantee import Guarantee
from nbkv.session.compare import compare
from nbkv.session.resources import Resources
from nbkv.session.verify import Report, verify
from nbkv.strategy import Strategy, parse, split

Work = TypeVar("Work", bound=LongWork)
Found = TypeVar("Found")


class Experiments(Resources):
    """Long work on one model: told step by step, stopped between steps, with the rows there are as its result."""

    @spells_out_sampling
    def compare(
        self,
        prompt: PromptLike,
        strategies: str | Sequence[str | Strategy] = ("full", "prefix"),
        *,
        repeat: int = 3,
        stop: str | Sequence[str] | None = None,
        match: str | None = None,
        order: str | None = None,
        **options: Any,  # noqa: ANN401  (as transformers names them)
    ) -> Comparison:
        """Run one prompt under several strategies, in turns, ``repeat`` times each, and measure all against ``full``.

        Every run finds the store as it is and leaves it so, and none counts in ``stats`` or ``history``. Options are
        those of ``generate``. Stopped, it returns the rows of what had run; Ctrl-C raises ``KeyboardInterrupt`` with
        them as its ``result``. So do ``certify``, ``verify`` and ``plan``.
        """
        ctx = self._open().for_request()
        if not is_whole(repeat, 1):
            message = f"repeat={repeat!r:.60} is not accepted: repeat is a whole number >= 1"
            raise BadOption(message)
        wanted = wanted_sampling(stop, options, ctx)
        ids = built_prompt(prompt, match, self.chunks, ctx, options, order=order, earlier=self._journal.earlier)
        chosen = [chosen_strategy(one, ctx) for one in split(strategies)]
        with self._lock.request():
            self.last = table = compare(ctx, chosen, ids, wanted, int(repeat))
        return self._lock.ended(table)

    def certify(
        self,
        prompts: Iterable[Question],
        *,
        max_kl: float,
        alpha: float = 0.1,
        rate: float = 0.05,
        strategies: str | Sequence[str | Strategy] | None = None,
        sink: str = "auto",
    ) -> Certificate:
        """Find the cheapest strategy whose error holds a bound on prompts like ``prompts``, with confidence 1 - alpha.

        Promised of it: at most a share ``rate`` of prompts drawn like these has a mean KL from full over the answer
        above ``max_kl`` nats. ``prompts`` are items of ``nbkv.tasks``, whose chunks are encoded behind ``sink``, or
        what ``generate`` takes. ``strategies``: those to try (None: ``prefix``, and every chunk strategy at falling
        budgets). All are measured as on a first request, whatever the session has in its store. Raises ``BadPrompt``,
        ``BadOption`` (also for too few prompts: it says how many it takes), ``UnknownName``, ``UnsupportedModel``.
        """
        ctx, guarantee = self._open().for_request(), Guarantee(max_kl, rate, alpha)
        with self._lock.request():
            certificate = certify(prompts, guarantee, strategies, sink, ctx)
        return self._lock.ended(certificate)

    def verify(self, strategy: str | Strategy | Sequence[str | Strategy] | None = None) -> Report:
        """Check this model's walk, cache, relocation and ``strategy`` against its own plain forward; return the table.

        Several strategies make one table, in which one the model cannot serve is a row with the reason. The verdict is
        remembered for this model; a strategy that failed is refused from then on, unless asked for with ``force=True``.
        """
        ctx = self._open().for_request()
        if strategy is None or isinstance(strategy, (str, Strategy)):
            chosen = [chosen_strategy(self._strategy if strategy is None else strategy, ctx, force=True)]
        else:
            chosen = [parse(one) for one in split(strategy)]
        with self._lock.request():
            report = verify(ctx, chosen, tuple(self.chunks.values()))
        for one in chosen:
            failed = report.failed(one.spec)
            if failed or not report.stopped:
                ctx.verdicts.put(verdict_name(one, ctx), failed)
        return self._lock.ended(report)

    def plan(self, tokens: int = 1024) -> Plan:
        """Measure what it costs to hold ``tokens`` older tokens in each form of ``residual``; it may take minutes.

        Raises ``BadOption`` and ``UnsupportedModel``.
        """
        return self.carry_out(lambda ctx: Planning(ctx.adapter, tokens), Planning.plan)

    def carry_out(self, make: Callable[[Context], Work], found: Callable[[Work, str], Found]) -> Found:
        """Return what is ``found`` by the long work that ``make`` gives, told step by step, stopped as all others are.

        ``found`` also gets how far it came where it was stopped, else "".
        """
        ctx = self._open().for_request()
        with self._lock.request():
            work = make(ctx)
            made = found(work, ctx.carry_out(work))
        return self._lock.ended(made)
