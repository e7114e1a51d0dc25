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

# what an option may be given, by its name: values that make sense, of more that are accepted
_USUAL = {
    "block_size": ("4", "8", "16", "32"),
    "device": ("auto", "cpu", "cuda"),
    "dtype": ("auto", "bfloat16", "float16", "float32"),
    "max_new": ("16", "64", "256"),
    "repeat": ("1", "3", "5"),
    "temperature": ("0", "0.7", "1"),
    "tokens": ("512", "1024", "4096"),
    "unmask": ("dynamic(threshold=0.9)", "entropy(bound=0.1)", "sequential", "static(steps=4)"),
}
_OTHERS = {  # IPython's matchers, but for that of files
    f"IPCompleter.{name}_matcher"
    for name in (
        "_jedi", "custom_completer", "dict_key", "fwd_unicode", "latex_name", "magic", "magic_color", "magic_config",
        "python", "python_func_kw", "unicode_name",
    )
}  # fmt: skip
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
            return {"completions": [], "suppress": False}
        return _match_line(magics, getattr(magics, line[1]).parser, line[2])

    return match  # type: ignore[no-any-return]


def _match_line(magics: Completed, parser: Any, line: str) -> SimpleMatcherResult:  # noqa: ANN401  (has private _actions)
    *words, token = re.split(r"[ \t]+", line)
    actions: list[Action] = parser._actions  # noqa: SLF001  (argparse has no public list)
    if token.startswith("-"):
        names = [name for action in actions for name in action.option_strings]
        return _answer(_starting(names, token), token)
    wanted = _expected(actions, words)
    if wanted is None:  # all arguments are there: only options can follow
        options = [action.option_strings for action in actions if action.option_strings]
        names = [spelled[-1] for spelled in options if not set(spelled) & set(words)]
        return _answer(_starting(names, token), token)
    kind = getattr(wanted, "kind", "")
    fragment = token.rpartition(",")[2] if kind == "strategies" else token
    values = _values(magics, kind) or list(_USUAL.get(wanted.dest, ()))
    # folders are models too, and IPython knows how to complete them
    return _answer(_starting(values, fragment), fragment, files=kind == "model")


def _expected(actions: list[Action], words: list[str]) -> Action | None:
    """Return the action whose value comes next: that of the option before, else a positional one that is not there."""
    last = words[-1] if words else ""
    options = {name: action for action in actions for name in action.option_strings}
    if last in options and options[last].nargs != 0:
        return options[last]
    valued = {at + 1 for at, word in enumerate(words) if word in options and options[word].nargs != 0}
    given = [word for at, word in enumerate(words) if at not in valued and word not in options]
    positional = next((action for action in actions if not action.option_strings), None)
    if positional is None or (given and positional.nargs not in {"+", "*"}):
        return None
    return positional


def _values(magics: Completed, kind: str) -> list[str]:
    from nbkv import registry  # noqa: PLC0415  (strategies and models bring torch)

    if kind in {"strategy", "strategies"}:
        return registry.strategies.names(aliases=True)
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


def _answer(names: list[str], fragment: str, *, files: bool = False) -> SimpleMatcherResult:
    """Answer for all matchers, of which only that of ``files`` may add something; nothing is an answer, too."""
    found = Completions(SimpleCompletion(name, type="magic argument") for name in names)
    return {"completions": found, "suppress": _OTHERS if files else True, "matched_fragment": fragment}


class Completions(list[SimpleCompletion]):
    """Completions that stand, also where there are none: IPython lets an answer that is empty suppress nothing."""

    def __len__(self) -> int:
        """Return at least 1."""
        return max(1, super().__len__())
