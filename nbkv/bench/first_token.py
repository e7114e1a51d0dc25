"""The first token of a request and how long it took, and how long K/V take that are loaded and not computed with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from nbkv.prompts.prompt import PromptLike
    from nbkv.result import Result
    from nbkv.session.session import Session


class FirstToken(NamedTuple):
    """The ``seconds`` from the call to an answer's first token, and the ``result`` of that token alone."""

    seconds: float
    result: Result


def first_token(session: Session, prompt: PromptLike, **options: Any) -> FirstToken:  # noqa: ANN401  (as ``stream`` has them)
    """Return the first token of an answer to ``prompt``, by a stream as a reader has one; the rest is not timed."""
    start = time.perf_counter()
    stream = session.stream(prompt, max_new_tokens=1, **options)
    pieces = iter(stream)
    next(pieces)
    seconds = time.perf_counter() - start
    for _ in pieces:
        pass
    assert stream.result is not None  # noqa: S101
    return FirstToken(seconds, stream.result)


def loading(session: Session, ids: Sequence[int], room: int) -> float:
    """Return the seconds until K/V of all ``ids`` are in a buffer for ``room`` tokens more, nothing running meanwhile.

    It asks the store as a request does, and gives the buffer back as it was.
    """
    ctx, whole = session._open().for_request(), len(ids)  # noqa: SLF001  (what a request runs on)
    start = time.perf_counter()
    lease = session.store.take(ctx.space(), ids, whole, lambda: ctx.adapter.growing(whole + room))
    seconds = time.perf_counter() - start
    assert lease.matched == whole  # noqa: S101
    session.store.discard(lease)
    return seconds
