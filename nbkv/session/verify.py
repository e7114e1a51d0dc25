"""The golden self-check: what a model computes through nbkv against what it computes by itself."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import torch

from nbkv.context import Context
from nbkv.errors import BadOption, NbkvError, UnsupportedModel
from nbkv.prompts.prompt import Prompt
from nbkv.result import Chunk
from nbkv.scalars import is_number
from nbkv.session.verification.exact_checks import ExactChecks
from nbkv.session.verification.model_answers import STEPS, Limits, ModelAnswers, limits
from nbkv.session.verification.model_checks import check_model, stored
from nbkv.session.verification.prompts import ChunkPrompt, chunk_prompts, long_prompt, plain_prompts
from nbkv.session.verification.report import Checks, Report
from nbkv.session.verification.reuse_checks import ReuseChecks
from nbkv.session.verification.trials import attempt, encode_chunks, in_store_of_its_own
from nbkv.show.units import plural
from nbkv.stopping import Stopped
from nbkv.stores.base import Scratch
from nbkv.strategy import Strategy

__all__ = ["Report", "verify"]


def verify(ctx: Context, strategies: Sequence[Strategy], chunks: Sequence[Chunk] = ()) -> Report:
    """Return the checks of ``ctx``'s model and of ``strategies`` on it, on made-up prompts in stores of their own.

    Of ``chunks``, those of the session, what its store holds is compared with what the model makes of them. A strategy
    the model cannot serve is a row that says why; it fails nothing. A stop ends it early: the rows are those of the
    checks there were, and ``stopped`` says how far it came.
    """
    work = _SelfCheck(ctx, strategies, chunks)
    return work.report(ctx.carry_out(work))


class _SelfCheck:
    """A self-check under way."""

    work = "verify"

    def __init__(self, ctx: Context, strategies: Sequence[Strategy], chunks: Sequence[Chunk]) -> None:
        self._ctx, self._strategies, self._chunks = ctx, strategies, chunks
        self._done: list[Checks] = []
        self.total = 2 + len(_StrategyChecks.PARTS) * len(strategies)

    def steps(self) -> Generator[str]:
        ctx, adapter, known = self._ctx, self._ctx.adapter, self._ctx.adapter.capabilities
        yield "the model's own answers"
        answers = ModelAnswers(in_store_of_its_own(ctx))
        prompts = plain_prompts(adapter.config.vocab_size, adapter.capabilities)
        first = next(iter(prompts.values()))
        # rounding grows with length: the longest prompt that fits tells its own share
        longest = max((first, *(given.prompt.ids for given in chunk_prompts(answers.ctx))), key=len)
        allowed = limits(answers, first)
        if adapter.dtype != torch.float32 and len(longest) + STEPS < min(known.context, known.stable_context):
            other = limits(answers, longest)
            allowed = Limits(max(allowed.logits, other.logits), max(allowed.kv, other.kv))
        yield "the model through nbkv"
        self._done.append(check_model(ctx, answers, first, allowed, self._chunks))
        for strategy in self._strategies:
            one = _StrategyChecks(ctx, answers, allowed, strategy)
            self._done.append(one.checks)
            yield from one.steps(prompts)

    def report(self, stopped: str = "") -> Report:
        rows = tuple(row for checks in self._done for row in checks.rows.values())
        return Report(self._ctx.adapter.name, ", ".join(map(with_amount, self._strategies)), rows, stopped)

    def found(self) -> dict[str, Any]:
        return self.report().to_dict()


def with_amount(strategy: Strategy) -> str:
    """Return the specification of ``strategy`` with what it spends, which a specification leaves out as a default."""
    for name in ("budget", "keep"):
        value = getattr(strategy, name, None)
        if is_number(value) and name not in strategy.spec:
            head, _, rest = strategy.spec.partition("(")
            return f"{head}({name}={value:g}{f', {rest}' if rest else ')'}"
    return strategy.spec


class _StrategyChecks:
    """The checks of one strategy, in a store of its own."""

    PARTS = ("as full", "as full, with chunks", "at its budget", "what is in the store")

    def __init__(self, ctx: Context, answers: ModelAnswers, allowed: Limits, strategy: Strategy) -> None:
        self.ctx, self.answers, self.limits = in_store_of_its_own(ctx), answers, allowed
        self.strategy, self.checks = strategy, Checks(strategy.spec)

    def steps(self, prompts: dict[str, tuple[int, ...]]) -> Generator[str]:
        strategy = self.strategy
        parts = (f"{strategy.spec}: {part}" for part in self.PARTS)
        yield next(parts)
        try:
            strategy.check(self.ctx.adapter)
        except (UnsupportedModel, BadOption) as refusal:
            self.checks.unchecked(strategy.spec, f"refused: {refusal}")
            yield from parts
            return
        full = strategy if strategy.exact else strategy.at_full_budget()
        if full is None:
            self.checks.unchecked(strategy.spec, "has no full budget at which it would equal full")
        else:
            self._guarded(full.spec, lambda: self._exact(full, prompts))
        yield next(parts)
        with_chunks = self._chunk_prompts()
        if full is not None:
            self._guarded(f"{full.spec} with chunks", lambda: self._exact_with_chunks(full, with_chunks))
        yield next(parts)
        if not strategy.exact and strategy != full:
            self._guarded(f"{strategy.spec} with chunks", lambda: self._at_its_budget(with_chunks))
        yield next(parts)
        self._kept([*prompts.values(), *(given.prompt.ids for given in with_chunks)], with_chunks)

    def _chunk_prompts(self) -> tuple[ChunkPrompt, ...]:
        known, made = self.ctx.adapter.capabilities, chunk_prompts(self.ctx)
        longest = max(len(given.prompt.ids) for given in made) + STEPS
        if longest >= min(known.context, known.stable_context):
            self.checks.unchecked(
                "with chunks", f"not checked: this model's context is {plural(known.context, 'token')}"
            )
            return ()
        # whether a model repeats itself was proved where its K/V are reused
        if not self.answers.has_kv and not all(
            self.answers.repeats(given.prompt.ids, self.limits.logits) for given in made
        ):
            self.checks.unchecked("with chunks", "not checked: the model itself answers them otherwise each time")
            return ()
        return made

    def _exact(self, full: Strategy, prompts: dict[str, tuple[int, ...]]) -> None:
        checks = ExactChecks(self.answers, self.limits, full, self.checks)
        for name, ids in prompts.items():
            checks.see(self.ctx, name, Prompt(ids))

    def _exact_with_chunks(self, full: Strategy, prompts: Sequence[ChunkPrompt]) -> None:
        """At its full budget a prompt with chunks equals the model's own, whether they are in the store or not."""
        for given in prompts:
            ctx = in_store_of_its_own(self.ctx)
            self._encode(ctx, given)
            ExactChecks(self.answers, self.limits, full, self.checks).see(ctx, given.name, given.prompt)

    def _at_its_budget(self, prompts: Sequence[ChunkPrompt]) -> None:
        """Check what can be known of it: each prompt alone, then all of them in a session that keeps what it keeps."""
        reuses = "relocation" in self.strategy.needs  # what moves cached keys reuses chunks
        spaces = [Scratch() for _ in prompts]
        alone = [(given, space, True) for given, space in zip(prompts, spaces, strict=True)]
        together = [(given, self.ctx.scratch, False) for given in (*prompts, *prompts[:1])]
        left = len(alone) + len(together)
        for given, scratch, canonical in (*alone, *together):
            left -= 1
            if not canonical and not any(spaces):
                return  # nothing is kept between requests
            ctx = replace(self.ctx, scratch=scratch)
            self._encode(ctx, given)
            tried = ReuseChecks(ctx, self.answers, self.limits, self.strategy, self.checks)
            trial = attempt(ctx, self.strategy, given.prompt)
            tried.see(trial, given, canonical=canonical)
            if reuses and not tried.reused(trial, given):
                # what keeps what it computed may first want to meet a chunk; the last prompt repeats an earlier one
                if left and any(scratch.values()):
                    continue
                if tried.ran_again(trial):
                    self._at_length(tried)
                else:
                    tried.nothing_reused(f"none of the K/V of {plural(len(given.prompt.chunks), 'encoded chunk')}")

    def _at_length(self, tried: ReuseChecks) -> None:
        """Check reuse of one long chunk: of a short one a strategy may be asked to run every token again."""
        given = long_prompt(self.ctx)
        self._encode(tried.ctx, given)
        trial = attempt(tried.ctx, self.strategy, given.prompt)
        if not tried.reused(trial, given):
            tried.nothing_reused(f"a chunk was run again as a whole, {plural(len(given.prompt.chunks[0][0]), 'token')}")

    def _encode(self, ctx: Context, given: ChunkPrompt) -> None:
        if ctx.adapter.capabilities.prefix:
            encode_chunks(ctx, given)

    def _kept(self, prompts: Sequence[tuple[int, ...]], with_chunks: Sequence[ChunkPrompt]) -> None:
        """Check the store afterwards: whatever any strategy may read as exact is what the model itself makes."""
        if not self.answers.has_kv:
            return
        block = self.ctx.adapter.capabilities.block
        paths = [chunk.path(start, block) for given in with_chunks for chunk, start, _ in given.prompt.chunks]
        own = Checks(self.strategy.spec)
        for path in dict.fromkeys([*paths, *prompts]):
            stored(self.ctx, self.answers, path, self.limits, own)
        for row in own.rows.values():
            name = f"{self.strategy.spec}: {row['check']}"
            self.checks.rows[name] = row | {"check": name}

    def _guarded(self, what: str, run: Callable[[], None]) -> None:
        """Run checks; an exception is one that failed, a refusal with a reason one that says so."""
        try:
            run()
        except Stopped:
            raise
        except NbkvError as refusal:
            self.checks.unchecked(f"{what}: refused", str(refusal))
        except Exception as error:  # noqa: BLE001  (a strategy may go wrong in any way; that is what is looked for)
            self.checks.holds(f"{what}: raised", ok=False, note=f"{type(error).__name__}: {error}")
