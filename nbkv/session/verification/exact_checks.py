"""Checks of what must equal the model's own pass: exact strategies, and the others at their full budget."""

from __future__ import annotations

from dataclasses import dataclass

from nbkv.context import Context
from nbkv.kv import KV, join
from nbkv.prompts.prompt import Prompt
from nbkv.session.verification.model_answers import Limits, ModelAnswers, kv_error, logits_error
from nbkv.session.verification.report import Checks
from nbkv.session.verification.trials import Trial, attempt
from nbkv.show.units import plural
from nbkv.strategy import Strategy


@dataclass(frozen=True, eq=False)
class ExactChecks:
    """The checks of ``strategy``, exact or at its full budget; their rows go to ``checks``."""

    answers: ModelAnswers
    limits: Limits
    strategy: Strategy
    checks: Checks

    def see(self, ctx: Context, name: str, prompt: Prompt) -> None:
        """Check logits, decoded tokens and K/V of ``prompt``, called ``name``, against the model's own."""
        want, spec = self.answers.to(prompt.ids), self.strategy.spec
        trial = attempt(ctx, self.strategy, prompt, want.tokens)
        note = f"{int((trial.prefilled.provenance == 0).sum())} of {plural(len(prompt.ids), 'token')} fresh"
        self.checks.error(f"{spec}: {name}", logits_error(trial.first, want.first), self.limits.logits, note)
        if len(want.steps):
            error = logits_error(trial.steps, want.steps)
            self.checks.error(
                f"{spec}: decoding", error, self.limits.logits, f"{plural(len(want.steps), 'token')} after {name}"
            )
        held = _held(trial)
        if want.kv is not None and held is not None:
            self.checks.error(f"{spec}: K/V", kv_error(held, want.kv), self.limits.kv, f"every row and layer, {name}")


def _held(trial: Trial) -> KV | None:
    """Return the K/V of prompt and forced tokens; None where they do not lie by position."""
    if trial.kv is None or trial.prefilled.extra:
        return None
    return trial.kv if trial.decoded is None else join([trial.kv, trial.decoded])
