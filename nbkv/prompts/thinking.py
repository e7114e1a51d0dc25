"""Thinking: what a reasoning model writes for itself before it answers, and the answer without it.

Chat templates of such models leave it out of all earlier answers. Cut off as token ids, what remains is the very tokens
that were decoded, whose K/V can be moved.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from nbkv.result import Chunk

_CLOSING = re.compile(r"</(?:think|thinking|thought|reasoning|analysis)>|\[/THINK\]")


def has_thinking(text: str) -> bool:
    """Return whether ``text`` has a closing mark of thinking."""
    return _CLOSING.search(text) is not None


def without_thinking(answer: Chunk, pieces: Sequence[str]) -> Chunk | str | None:
    """Return ``answer`` without all up to the last closing mark of thinking; None where there is none.

    ``pieces`` are its tokens as text. Line breaks behind the mark go too, as templates have it (Qwen3, DeepSeek-R1).
    Where a token holds the end of the mark and more than space, no token ids can be cut: what remains is text.
    """
    text = "".join(pieces)
    marks = list(_CLOSING.finditer(text))
    if not marks:
        return None
    end, ends = marks[-1].end(), list(accumulate(map(len, pieces)))
    cut = next(at for at, stop in enumerate(ends, start=1) if stop >= end)
    if text[end : ends[cut - 1]].strip():
        return _behind_mark(answer.text).lstrip("\n")
    while cut < len(pieces) and pieces[cut] and not pieces[cut].strip("\n"):
        cut += 1
    if cut == len(pieces):
        return ""
    return replace(
        answer,
        text=_behind_mark(answer.text).lstrip("\n"),
        token_ids=answer.token_ids[cut:],
        sink=(*answer.sink, *answer.token_ids[:cut]),
    )


def _behind_mark(text: str) -> str:
    return _CLOSING.split(text)[-1]
