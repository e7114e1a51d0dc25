"""Incremental detokenizing: generated token ids become text as they come."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

from nbkv.prompts.tokenizer import Codec


class TextStream:
    """Detokenizes an answer token by token; holds back text that a later token or a stop string could still change.

    Special tokens are no text, but a stop string may be one or have one in it, as in transformers. ``stopped`` turns
    True with the token that completes a stop string. What a token costs does not depend on how many came before it,
    but for bytes of a character: those are decoded together.
    """

    def __init__(self, codec: Codec, stop: Sequence[str]) -> None:
        """Start without tokens; the text ends before the first of the strings in ``stop``."""
        self._codec = codec
        self._ids: list[int] = []  # of the answer
        self._shown: list[int] = []  # those of them that are text
        # shown[:_decoded] have become final text; shown[_context:_decoded], which are _before as text, are decoded
        # again as context for the next ones
        self._decoded = self._context = 0
        self._before = self._final = ""
        self._given = 0  # characters of _final
        self._stops = _StopStrings(stop) if stop else None
        self._end: int | None = None  # where a stop string cuts _final
        self.stopped = False

    @property
    def text(self) -> str:
        """Return the text of all tokens so far, cut before a stop string."""
        return self._codec.text(self._ids) if self._end is None else self._final[: self._end]

    def branch(self) -> TextStream:
        """Return one that has the same tokens and goes on for itself."""
        other = copy(self)
        vars(other).update(_ids=list(self._ids), _shown=list(self._shown), _stops=copy(self._stops))
        return other

    def add(self, token: int) -> str:
        """Add one token; return the text that has become final and was not returned before (may be empty)."""
        self._ids.append(token)
        if self._codec.is_silent(token):
            return "" if self._stops is None else self._add_silent(token, self._stops)
        self._shown.append(token)
        byte = token in self._codec.byte_tokens
        if byte and self._stops is None:
            return ""  # not final yet, and nobody asks what it may come to
        after = self._codec.text(self._shown[self._context :])
        new = after[len(self._before) :]
        # bytes that complete no character make the decoder replace the whole run of bytes, so its end is waited for
        final = bool(new) and not byte and not after.endswith("\ufffd")
        cut = None if self._stops is None else self._stops.cut(len(self._final), new)
        if final or cut is not None:
            if self._stops is not None:
                self._stops.add(len(self._final), new)
            self._final += new
            self._context, self._decoded = self._decoded, len(self._shown)
            self._before = self._codec.text(self._shown[self._context :])
        return self._given_up_to(cut)

    def finish(self) -> str:
        """Return the text that was held back; no token follows."""
        text = self.text
        if text.startswith(self._final[: self._given]):
            self._final = text
        return self._give(len(self._final))

    def _add_silent(self, token: int, stops: _StopStrings) -> str:
        """Add a token that is no text: a stop string may be it."""
        held = self._codec.text(self._shown[self._context :])[len(self._before) :]
        spelled = self._codec.spelling(token)
        cut = stops.cut(len(self._final), held, spelled)
        if cut is None:
            stops.add(len(self._final), "", spelled)
        else:
            self._final += held
        return self._given_up_to(cut)

    def _given_up_to(self, cut: int | None) -> str:
        """Return what is to be shown now: up to where a stop string cuts the text, or could begin."""
        if cut is None:
            end = len(self._final)
            return self._give(end if self._stops is None else self._stops.free(end))
        self.stopped, self._end = True, cut
        return self._give(cut)

    def _give(self, upto: int) -> str:
        """Return the final text up to character ``upto`` that was not returned before."""
        piece = self._final[self._given : max(upto, self._given)]
        self._given += len(piece)
        return piece


class _StopStrings:
    """Finds stop strings in a text that grows, spelled with its special tokens, by looking at its end only."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._most = max(map(len, self._stop), default=1) - 1  # as much of a stop string as can stand there incomplete
        self._end = ""  # of the text, special tokens spelled out
        self._places: list[int] = []  # where in the text, without them, each of its characters stands

    def cut(self, length: int, new: str, silent: str = "") -> int | None:
        """Return where the first stop string begins in a text of ``length`` that ``new`` and a special token follow."""
        whole = self._end + new + silent
        begin = min((at for stop in self._stop if (at := whole.find(stop)) >= 0), default=None)
        if begin is None or begin < len(self._places):
            return None if begin is None else self._places[begin]
        return length + min(begin - len(self._places), len(new))

    def add(self, length: int, new: str, silent: str = "") -> None:
        """Take note that ``new`` text and a special token follow a text of ``length``."""
        if self._most:
            stop = length + len(new)
            self._end = (self._end + new + silent)[-self._most :]
            self._places = [*self._places, *range(length, stop), *[stop] * len(silent)][-self._most :]

    def free(self, length: int) -> int:
        """Return how many characters of the text, which has ``length``, cannot be part of a stop string."""
        begun = (n for stop in self._stop for n in range(1, len(stop)) if self._end.endswith(stop[:n]))
        return min((self._places[-n] for n in begun), default=length)
