"""Token ids become text piece by piece."""

from __future__ import annotations

from collections.abc import Sequence

from nbkv.prompts.tokenizer import Codec


class TextStream:
    """Turns token ids into text piece by piece; holds back what a later token or a stop string could still change."""

    def __init__(self, codec: Codec, stop: Sequence[str]) -> None:
        """Begin an answer that ends before any string in ``stop``."""
        self._codec, self._stop = codec, tuple(stop)
        self._ids: list[int] = []
        self._read = self._shown = 0  # tokens whose text is settled, and those before them kept as context
        self._settled = ""
        self._given = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """Return the answer so far, cut before a stop string."""
        whole = self._codec.text(self._ids)
        cut = self._cut(whole)
        return whole if cut is None else whole[:cut]

    def add(self, token: int) -> str:
        """Take one token; return the text that is certain now (may be empty)."""
        self._ids.append(token)
        before = self._codec.text(self._ids[self._shown : self._read])
        after = self._codec.text(self._ids[self._shown :])
        new = after[len(before) :]
        # bytes that turn out to be no character take the whole run of bytes before them along, so a run is waited for
        settled = bool(new) and not after.endswith("\ufffd") and token not in self._codec.open_ended
        cut = self._cut(self._settled + new)
        if settled or cut is not None:
            self._settled += new
            self._shown, self._read = self._read, len(self._ids)
        if cut is not None:
            self.stopped = True
            return self._give(cut)
        return self._give(len(self._settled) - self._held())

    def finish(self) -> str:
        """Return what was held back and belongs to the answer after all."""
        text = self.text
        if text.startswith(self._settled[: self._given]):
            self._settled = text
        return self._give(len(self._settled))

    def _give(self, upto: int) -> str:
        piece = self._settled[self._given : max(upto, self._given)]
        self._given += len(piece)
        return piece

    def _cut(self, text: str) -> int | None:
        return min((at for stop in self._stop if (at := text.find(stop)) >= 0), default=None)

    def _held(self) -> int:
        """Return how many characters at the end could be the beginning of a stop string."""
        return max(
            (n for stop in self._stop for n in range(1, len(stop)) if self._settled.endswith(stop[:n])),
            default=0,
        )
