"""Completion of options, strategies, models, sessions and chunk names; IPython completes the magics themselves."""

from __future__ import annotations

import re
from argparse import Action
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from nbkv.magics.template import known_names

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbkv.magics.sessions import Sessions

_LINE = re.compile(r"\s*%%?(kv\w+)[ \t]+(.*)$", re.DOTALL)
_FIELD = re.compile(r"\{\{[ \t]*([^\s{}]*)$")

Matcher = Callable[[CompletionContext], SimpleMatcherResult]


class Completed(Protocol):
    """What is completed: magics with their sessions and the shell whose variables prompts may name.

    Its methods that are magics carry their ``parser``.
    """

    shell: InteractiveShell
    sessions: Sessions


def matcher(magics: Completed) -> Matcher:
    """Return a matcher for IPython's ``Completer.custom_matchers``."""

    @context_matcher(identifier="nbkv")  # type: ignore[untyped-decorator]
    def match(context: CompletionContext) -> SimpleMatcherResult:
        before = context.text_until_cursor
        in_cell = context.full_text.lstrip().startswith("%%kv") and context.cursor_line > 0
        field = _FIELD.search(before) if in_cell else None
        line = None if in_cell else _LINE.match(before)
        if field:
            return _answer(_starting(_names(magics), field[1]), field[1])
        if line is None or not hasattr(magics, line[1]):
            return _answer([], "")
        return _match_line(magics, getattr(magics, line[1]).parser, line[2])

    return match  # type: ignore[no-any-return]


def _match_line(magics: Completed, parser: Any, line: str) -> SimpleMatcherResult:  # noqa: ANN401  (has private _actions)
    *words, token = re.split(r"[ \t]+", line)
    actions: list[Action] = parser._actions  # noqa: SLF001  (argparse has no public list)
    if token.startswith("-"):
        names = [name for action in actions for name in action.option_strings]
        return _answer(_starting(names, token), token)
    wanted = _expected(actions, words)
    if wanted is None:
        return _answer([], token)
    kind = getattr(wanted, "kind", "")
    fragment = token.rpartition(",")[2] if kind == "strategies" else token
    # folders are models too, and IPython knows how to complete them
    return _answer(_starting(_values(magics, kind), fragment), fragment, alone=kind != "model")


def _expected(actions: list[Action], words: list[str]) -> Action | None:
    """Return the action whose value comes next: that of the option before, else the positional one."""
    last = words[-1] if words else ""
    for action in actions:
        if last in action.option_strings and action.nargs != 0:
            return action
    return next((action for action in actions if not action.option_strings), None)


def _values(magics: Completed, kind: str) -> list[str]:
    from nbkv import registry  # noqa: PLC0415  (strategies and models bring torch)

    if kind in {"strategy", "strategies"}:
        return registry.strategies.names()
    if kind == "model":
        from nbkv.models.pretrained.source import known_models  # noqa: PLC0415

        return known_models()
    if kind == "session":
        return magics.sessions.names
    return ["clear", "ls", "memory"] if kind == "store" else []


def _names(magics: Completed) -> list[str]:
    chunks = magics.sessions.current.chunks if magics.sessions.names else {}
    hidden = magics.shell.user_ns_hidden
    variables = {name: value for name, value in magics.shell.user_ns.items() if name not in hidden}
    return known_names(variables, chunks)


def _starting(names: list[str], start: str) -> list[str]:
    return sorted(name for name in names if name.startswith(start))


def _answer(names: list[str], fragment: str, *, alone: bool = True) -> SimpleMatcherResult:
    completions = [SimpleCompletion(name, type="magic argument") for name in names]
    return {"completions": completions, "suppress": alone and bool(completions), "matched_fragment": fragment}
