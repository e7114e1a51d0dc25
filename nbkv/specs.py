"""The one reader of ``name(value, option=value)``: so strategies, residual forms and unmasking rules are written."""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

_CALL = re.compile(r"\s*([A-Za-z_][\w-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)


class Spec(NamedTuple):
    """What was written: a name, the values without a name, and those with one; none of it looked at."""

    name: str
    values: list[object]
    options: dict[str, object]


def read(text: object) -> Spec:
    """Return the parts of ``text``, such as ``"cacheblend(0.2, check_layers=(1, 4))"``; nothing is ever run.

    Raises ``ValueError`` if it is no string, no name, or has anything but plain Python values in its brackets.
    """
    match = _CALL.fullmatch(text) if isinstance(text, str) else None
    if match is not None:
        try:
            call = ast.parse(f"f({match[2] or ''})", mode="eval").body
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                values = [ast.literal_eval(argument) for argument in call.args]
                options = {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg}
                if len(options) == len(call.keywords):  # else ** or an option named twice
                    return Spec(match[1], values, options)
        except (SyntaxError, ValueError):
            pass
    message = f"cannot read the options of {text!r} (accepted: name, name(value, option=value) with plain values)"
    raise ValueError(message)
