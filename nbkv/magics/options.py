"""How a line of options becomes arguments: quotes and brackets hold words together, ``-h`` always works."""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from inspect import cleandoc
from numbers import Real
from typing import Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic import no_var_expand
from IPython.core.magic_arguments import MagicArgumentParser

from nbkv.errors import NbkvError
from nbkv.magics.template import fill

HELP = ("-h", "--help")
_OPEN, _CLOSE, _QUOTES = "([{", ")]}", "'\""


class Layout(RawDescriptionHelpFormatter):
    """Keeps the lines of the description, and leaves the magic's own per cent signs alone."""

    def __init__(self, prog: str) -> None:
        """Use a narrow first column, as cells are often narrow."""
        super().__init__(prog, max_help_position=30, width=100)


class Parser(MagicArgumentParser):
    """Reports a wrong line as one line that says which magic it was."""

    def error(self, message: str) -> NoReturn:
        """Raise ``UsageError``."""
        text = f"{self.prog}: {message} ({self.prog} -h lists the options)"
        raise UsageError(text)


def option(*names: str, **settings: Any) -> tuple[tuple[str, ...], dict[str, Any]]:  # noqa: ANN401  (argparse's own)
    """Describe an option or argument, as argparse's ``add_argument`` takes it; ``kind`` says what completes it."""
    return names, settings


def command(
    *options: tuple[tuple[str, ...], dict[str, Any]], exclusive: tuple[str, ...] = (), cell: bool = False
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Turn a method that takes parsed arguments (and the cell's text) into a magic.

    Of the options that have a name in ``exclusive`` only one may be given. Errors of the user become ``UsageError``,
    which IPython shows as one line.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        prog = f"{'%%' if cell else '%'}{method.__name__}"
        text = cleandoc(method.__doc__ or "")
        parser = Parser(prog, description=text, formatter_class=Layout)  # type: ignore[no-untyped-call]
        group = parser.add_mutually_exclusive_group() if exclusive else parser
        for names, settings in options:
            place = group if set(names) & set(exclusive) else parser
            kind = settings.get("kind", "")
            action = place.add_argument(*names, **{key: value for key, value in settings.items() if key != "kind"})
            action.kind = kind  # type: ignore[attr-defined]  # what completion offers
        parser.add_argument(*HELP, action="store_true", help="show this text")

        @no_var_expand
        @wraps(method)
        def magic(self: Any, line: str, body: str | None = None) -> Any:  # noqa: ANN401  (whatever the method returns)
            try:
                words = [filled(word, self.shell.user_ns) for word in split_words(line)]
                if set(HELP) & set(words):
                    sys.stdout.write(parser.format_help())
                    return None
                if cell and body is None:
                    parser.error(f"the text stands in the cell, below a first line that begins with {prog}")
                arguments = parser.parse_args(words)
                return method(self, arguments, body) if cell else method(self, arguments)
            except NbkvError as error:
                raise UsageError(str(error)) from None
            except KeyboardInterrupt as stop:  # where exactly it struck is no news to whoever pressed the key
                raise stop.with_traceback(None) from None

        magic.__doc__ = parser.format_help()
        magic.parser = parser  # type: ignore[attr-defined]  # completion reads the options here
        return magic

    return decorate


def filled(word: str, variables: Mapping[str, object]) -> str:
    """Put the text or number that ``{{ name }}`` in an option stands for in its place, as notebooks have parameters."""
    parts = fill(word, {name: value for name, value in variables.items() if isinstance(value, (str, Real))}, {})
    return "".join(str(part) for part in parts)


def split_words(line: str) -> list[str]:
    """Split at white space, but not inside quotes (which are taken off) or brackets.

    ``-s cacheblend(budget=0.2, check=1) "a b"`` gives three words.
    """
    return [_unquoted(word) for word in _pieces(line) if word]


def _pieces(text: str) -> Iterator[str]:
    start, depth, quote = 0, 0, ""
    for index, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in _QUOTES and (depth or index == start):
            quote = char
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth = max(0, depth - 1)
        elif not depth and char.isspace():
            yield text[start:index]
            start = index + 1
    if quote or depth:
        message = f"unclosed {'quote' if quote else 'bracket'} in {text.strip()!r}"
        raise UsageError(message)
    yield text[start:]


def _unquoted(word: str) -> str:
    return word[1:-1] if len(word) > 1 and word[0] in _QUOTES and word[-1] == word[0] else word
