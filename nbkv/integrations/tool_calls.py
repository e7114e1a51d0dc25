"""Calls of tools in an answer's text, as Hermes and Qwen models write them: JSON between ``<tool_call>`` tags."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)


class ToolCall(NamedTuple):
    """The ``name`` of a tool and its ``arguments``."""

    name: str
    arguments: dict[str, Any]


def tool_calls(text: str) -> tuple[str, list[ToolCall]]:
    """Return ``text`` without the calls in it, and these in order; what is no call in JSON stays text."""
    found: list[ToolCall] = []

    def read(match: re.Match[str]) -> str:
        try:
            call = json.loads(match[1])
            name, arguments = call["name"], call.get("arguments", call.get("parameters", {}))
        except (ValueError, KeyError, TypeError, AttributeError):
            return match[0]
        if not isinstance(name, str) or not isinstance(arguments, dict):
            return match[0]
        found.append(ToolCall(name, arguments))
        return ""

    left = _CALL.sub(read, text)
    return (left.strip() if found else text), found


def template_call(name: str, arguments: object, ident: str | None = None) -> dict[str, Any]:
    """Return a call in the form that chat templates read."""
    call: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return call if ident is None else call | {"id": ident}
