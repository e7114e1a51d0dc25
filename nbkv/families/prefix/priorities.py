"""What a full store gives up last and first: the system text that every turn begins with, and thinking.

What a model thought before it answered is left out of later prompts by most chat templates, so that nothing goes on
from there: neither thinking nor the answer behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from nbkv.context import Context, Request
from nbkv.errors import BadPrompt
from nbkv.prompts.prompt import opening
from nbkv.prompts.thinking import has_thinking
from nbkv.stores.base import Priority

SYSTEM, THINKING = 1, -1


def priorities(ids: Sequence[int], request: Request, ctx: Context) -> tuple[Priority, ...]:
    """Return the priorities of tokens of ``ids``, prompt and answer of ``request``; all others have 0."""
    n, found = len(request.ids), []
    if system := _system(request, ctx):
        found.append(Priority(0, system, SYSTEM))
    if has_thinking("".join(ctx.pieces(ids[n:]))):
        found.append(Priority(n, len(ids), THINKING))
    return tuple(found)


def _system(request: Request, ctx: Context) -> int:
    """Return how many first tokens of ``request`` its system text makes, with what the template writes around it."""
    if not request.prompt.system:
        return 0
    try:
        head = opening(ctx.codec, request.prompt.system)
    except BadPrompt:  # the template takes other conversations than a system text and a question
        return 0
    same = takewhile(lambda pair: pair[0] == pair[1], zip(head, request.ids, strict=False))
    return sum(1 for _ in same)
