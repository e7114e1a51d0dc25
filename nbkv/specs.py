"""Reads the options in ``name(value, option=value)``: plain Python values, nothing is ever run."""

from __future__ import annotations

import ast


def arguments(text: str) -> tuple[list[object], dict[str, object]]:
    """Return the values and the named values that stand between the brackets of a call.

    Raises ``ValueError`` if ``text`` is anything but plain values.
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if isinstance(call, ast.Call):
            values = [ast.literal_eval(argument) for argument in call.args]
            return values, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except SyntaxError as error:
        message = f"cannot read {text!r}"
        raise ValueError(message) from error
    message = f"cannot read {text!r}"
    raise ValueError(message)
