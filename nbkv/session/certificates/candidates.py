"""Which strategies are tried: those asked for, or every chunk strategy with a budget that can serve the model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

from nbkv.context import Context
from nbkv.errors import BadOption, UnsupportedModel
from nbkv.families.blend.base import Blend
from nbkv.families.blend.harvest import Harvest
from nbkv.registry import strategies as registry
from nbkv.scalars import is_number
from nbkv.session.arguments import chosen_strategy
from nbkv.session.certificates.ladder import Ladder, Step
from nbkv.strategy import Strategy, parse, split

BUDGETS = (0.3, 0.2, 0.15, 0.1, 0.05)
_AMOUNTS = ("budget", "keep")  # what a strategy spends: less of it is cheaper, and farther from full


@dataclass(frozen=True)
class CandidateSet:
    """What is tried: ``ladders`` of approximations, and ``exact`` strategies, which need no test."""

    strategies: tuple[Strategy, ...]
    ladders: tuple[Ladder, ...]
    exact: tuple[Step, ...]


def candidates(asked: str | Sequence[str | Strategy] | None, ctx: Context, *, chunks: bool) -> CandidateSet:
    """Return the strategies ``asked`` for, or (None) ``prefix`` and all chunk strategies with budgets that fit.

    ``chunks``: whether the prompts have any. Raises ``BadOption`` where there is nothing to try and for strategies that
    cannot be certified, ``UnknownName``, ``UnsupportedModel``.
    """
    chosen = _usual(ctx, chunks=chunks) if asked is None else [chosen_strategy(one, ctx) for one in split(asked)]
    if not chosen:
        message = (
            "strategies is empty (accepted: names such as 'prophet(budget=0.2)', or None for all chunk strategies)"
        )
        raise BadOption(message)
    for one in chosen:
        if _learns(one):
            message = (
                f"{one.spec} cannot be certified: what it does to a prompt depends on the requests before it "
                "(accepted: strategies that serve a prompt always alike)"
            )
            raise BadOption(message)
    return sorted_out({one.spec: one for one in chosen}.values())


def sorted_out(strategies: Collection[Strategy]) -> CandidateSet:
    """Return ``strategies`` in ladders: those that differ in their budget alone, the largest first."""
    ladders: dict[str, list[Strategy]] = {}
    exact = [one for one in strategies if one.exact]
    for one in strategies:
        if not one.exact:
            ladders.setdefault(_without_amount(one), []).append(one)
    for steps in ladders.values():
        steps.sort(key=lambda one: -(_amount(one) or 0.0))
    made = tuple(Ladder([Step(one.spec, _amount(one)) for one in steps]) for steps in ladders.values())
    every = (*exact, *(one for steps in ladders.values() for one in steps))
    return CandidateSet(every, made, tuple(Step(one.spec) for one in exact))


def _usual(ctx: Context, *, chunks: bool) -> list[Strategy]:
    """Return ``prefix`` and every chunk strategy at each of the usual budgets, those that fit ``ctx``'s model."""
    if not chunks:
        message = "no prompt has chunks: name the strategies to try, such as strategies='snapkv(keep=0.5)'"
        raise BadOption(message)
    classes: list[Any] = [registry.get(name) for name in registry.names()]
    kinds = [cls for cls in classes if issubclass(cls, Blend) and "budget" in {option.name for option in fields(cls)}]
    every = [cls(budget=budget) for cls in kinds for budget in BUDGETS]
    fit = [one for one in [parse("prefix"), *every] if not _learns(one) and _serves(one, ctx)]
    if all(one.exact for one in fit):
        message = f"no chunk strategy can serve {ctx.adapter.name}: name others to try with strategies="
        raise UnsupportedModel(message)
    return fit


def _serves(strategy: Strategy, ctx: Context) -> bool:
    try:
        chosen_strategy(strategy, ctx)
    except (UnsupportedModel, BadOption):  # also options that a model of so few layers does not take
        return False
    return True


def _learns(strategy: Strategy) -> bool:
    """Whether a strategy does otherwise after other requests: then prompts measured say little of those to come."""
    inner = getattr(strategy, "inner", None)
    return isinstance(strategy, Harvest) or strategy.family == "auto" or (inner is not None and _learns(parse(inner)))


def _amount(strategy: Strategy) -> float | None:
    found = [getattr(strategy, name, None) for name in _AMOUNTS]
    return next((float(value) for value in found if is_number(value)), None)


def _without_amount(strategy: Strategy) -> str:
    """Return what steps of one ladder have in common."""
    options: Any = {name: None for name in _AMOUNTS if is_number(getattr(strategy, name, None))}
    rest = [(option.name, options.get(option.name, getattr(strategy, option.name))) for option in fields(strategy)]
    return f"{strategy.name} {rest}"
