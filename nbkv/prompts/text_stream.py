"""Incremental detokenizing: generated token ids become text as they come."""

from __future__ import annotations

from collections.abc import Sequence

from nbkv.prompts.tokenizer import Codec


class TextStream:
    """Detokenizes an answer token by token; holds back text that a later token or a stop string could still change.

    ``stopped`` turns True with the token that completes a stop string.
    """

    def __init__(self, codec: Codec, stop: Sequence[str]) -> None:
        """Start without tokens; the text ends before the first of the strings in ``stop``."""
        self._codec, self._stop = codec, tuple(stop)
        self._ids: list[int] = []
        # ids[:_decoded] have become final text; ids[_context:_decoded] are decoded again as context for the next ones
        self._decoded = self._context = 0
        self._final = ""
        self._given = 0  # characters of it
        self.stopped = False

    @property
    def text(self) -> str:
        """Return the text of all tokens so far, cut before a stop string."""
        whole = self._codec.text(self._ids)
        cut = self._cut(whole)
        return whole if cut is None else whole[:cut]

    def add(self, token: int) -> str:
        """Add one token; return the text that has become final and was not returned before (may be empty)."""
        self._ids.append(token)
        before = self._codec.text(self._ids[self._context : self._decoded])
        after = self._codec.text(self._ids[self._context :])
        new = after[len(before) :]
        # bytes that complete no character make the decoder replace the whole run of bytes, so its end is waited for
        final = bool(new) and not after.endswith("\ufffd") and token not in self._codec.open_ended
        cut = self._cut(self._final + new)
        if final or cut is not None:
            self._final += new
            self._context, self._decoded = self._decoded, len(self._ids)
        if cut is not None:
            self.stopped = True
            return self._give(cut)
        return self._give(len(self._final) - self._partial_stop())

    def finish(self) -> str:
        """Return the text that was held back; no token follows."""
        text = self.text
        if text.startswith(self._final[: self._given]):
            self._final = text
        return self._give(len(self._final))

    def _give(self, upto: int) -> str:
        """Return the final text up to character ``upto`` that was not returned before."""
        piece = self._final[self._given : max(upto, self._given)]
        self._given += len(piece)
        return piece

    def _cut(self, text: str) -> int | None:
        """Return where the first stop string begins in ``text``; None if there is none."""
        return min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)

    def _partial_stop(self) -> int:
        """Return how many characters at the end of the final text could begin a stop string."""
        return max(
            (n for stop in self._stop for n in range(1, len(stop)) if self._final.endswith(stop[:n])),
            default=0,
        )
