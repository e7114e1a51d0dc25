"""Which strategies a session can be switched to, and how a picker's values become a specification."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from nbkv.errors import NbkvError
from nbkv.registry import strategies
from nbkv.strategy import Strategy, parse

if TYPE_CHECKING:
    from nbkv.session.session import Session

KNOBS = ("budget", "keep")  # the one number a strategy is dosed with


def choices(session: Session) -> list[dict[str, Any]]:
    """Return each strategy with the ``knob`` it is dosed with, its ``value`` there, and ``why`` it cannot be used."""
    return [_choice(session, parse(name)) for name in strategies.names()]


def spec(given: dict[str, Any]) -> str:
    """Return ``name(knob=value)`` for what a picker sends: ``strategy`` and, where it has a knob, ``value``."""
    name, value = str(given["strategy"]), given.get("value")
    if value is None:
        return name
    knob = knob_of(parse(name))
    return f"{name}({knob}={float(value):g})" if knob else name


def knob_of(strategy: Strategy) -> str:
    """Return the name of the option that doses ``strategy``, empty if it has none."""
    known = {option.name for option in fields(strategy)}
    return next((name for name in KNOBS if name in known), "")


def picked(strategy: Strategy) -> dict[str, Any]:
    """Return what a picker shows for ``strategy``."""
    knob = knob_of(strategy)
    return {"strategy": strategy.name, "value": getattr(strategy, knob) if knob else None}


def _choice(session: Session, strategy: Strategy) -> dict[str, Any]:
    why, knob = "", knob_of(strategy)
    try:
        strategy.check(session.adapter)
    except NbkvError as error:
        why = str(error)
    value = getattr(strategy, knob) if knob else None
    return {"name": strategy.name, "summary": strategy.summary, "knob": knob, "value": value, "why": why}
