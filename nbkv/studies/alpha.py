"""Fits Cache-Craft's ``alpha`` to a model, offline: the least recomputation that keeps answers near those of full.

The paper (arXiv 2502.15734, section 3.2) tunes it against a task's F1 on a validation set. Here deviation from ``full``
is what is kept small, so that prompts need no known answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbkv.errors import BadOption

if TYPE_CHECKING:
    from nbkv.session.session import Session

ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class AlphaTrial:
    """What one ``alpha`` gave: ``kl`` in nats and ``share`` of token-layers run, both means over the prompts."""

    alpha: float
    kl: float
    share: float


@dataclass(frozen=True)
class AlphaFit:
    """The ``alpha`` that was chosen, and every trial."""

    alpha: float
    trials: tuple[AlphaTrial, ...]


def fit_alpha(
    session: Session,
    history: Sequence[Any],
    prompts: Sequence[Any],
    *,
    max_kl: float,
    alphas: Sequence[float] = ALPHAS,
    max_new_tokens: int = 16,
) -> AlphaFit:
    """Return the ``alpha`` of least compute share at which answers to ``prompts`` stay near full's.

    Near is a mean KL of ``max_kl`` nats or less over the answers' tokens. First ``history`` is served with everything
    recomputed, which leaves variants of its chunks in the session, as its traffic would; then each of ``prompts``, of
    the same chunks in other surroundings, is compared with full at each of ``alphas``. Nothing is kept of the
    comparisons. Raises ``BadOption`` where no ``alpha`` comes near enough, and without prompts.
    """
    if not prompts or not alphas:
        message = "fit_alpha needs at least one prompt and one alpha"
        raise BadOption(message)
    for prompt in history:
        session.generate(prompt, strategy="cachecraft(budget=1)", max_new_tokens=1)
    specs = [f"cachecraft(alpha={float(alpha)})" for alpha in alphas]
    tables = [
        session.compare(prompt, ["full", *specs], repeat=1, max_new_tokens=max_new_tokens).rows[1:]
        for prompt in prompts
    ]
    trials = tuple(
        AlphaTrial(float(alpha), _mean(rows, "kl"), _mean(rows, "compute_share"))
        for alpha, rows in zip(alphas, zip(*tables, strict=True), strict=True)
    )
    near = [trial for trial in trials if trial.kl <= max_kl]
    if not near:
        nearest = min(trials, key=lambda trial: trial.kl)
        message = (
            f"no alpha of {tuple(alphas)} keeps the mean KL at {max_kl:g} nats or less: "
            f"alpha={nearest.alpha:g} comes nearest with {nearest.kl:.3g}"
        )
        raise BadOption(message)
    return AlphaFit(min(near, key=lambda trial: trial.share).alpha, trials)


def _mean(rows: Sequence[dict[str, Any]], column: str) -> float:
    return float(sum(row[column] for row in rows) / len(rows))
