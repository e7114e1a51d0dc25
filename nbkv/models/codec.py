"""Text to token ids and back, by the rules that make a chunk's ids independent of its neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Text put before a part so that a tokenizer which marks the beginning of a text (SentencePiece's leading space) marks
# that instead; the first one that does not merge with the part is used.
_FENCES = ("\n", "|", "a", ".", "0")
_MOST_PIECES = 100_000


class Codec:
    """A transformers tokenizer, asked in the four ways a prompt needs."""

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401  (slow and fast tokenizers share no typed parent)
        """Learn what ``tokenizer`` puts in front of a text by itself."""
        self.tokenizer = tokenizer
        unknown = tokenizer.unk_token_id
        self._special = {} if unknown is None else dict.fromkeys(tokenizer.all_special_ids, unknown)
        self._pieces: dict[tuple[int, ...], str] = {}  # decoding token by token is slow, and prompts repeat themselves
        self.front = self._front()
        self._marks_beginning = self._part("a") != self._behind_fence("a")

    @property
    def has_template(self) -> bool:
        """Return whether the tokenizer brings a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def whole(self, text: str) -> list[int]:
        """Return the ids of ``text`` exactly as transformers gives them."""
        return list(self.tokenizer(text)["input_ids"])

    def part(self, text: str, *, first: bool) -> list[int]:
        """Return the ids of a prompt's part: no special tokens added or read; only a ``first`` part begins a text."""
        return self._part(text) if first or not self._marks_beginning else self._behind_fence(text)

    def template(self, text: str, *, first: bool) -> list[int]:
        """Return the ids of text that a chat template wrote: none added, but special tokens in it are read as such."""
        if first or not self._marks_beginning:
            return self._part(text, ordinary=False)
        return self._behind_fence(text, ordinary=False)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids`` without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return the text each token of ``ids`` adds to the one before it, special tokens included.

        Alone a token may lack the space that stands before it in a text.
        """
        pairs = [tuple(ids[max(0, at - 1) : at + 1]) for at in range(len(ids))]
        if len(self._pieces) > _MOST_PIECES:
            self._pieces.clear()
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._pieces]
        if new:
            befores, boths, alones = (
                self.tokenizer.batch_decode(list(lists), skip_special_tokens=False)
                for lists in zip(*(([*pair[:-1]], [*pair], [pair[-1]]) for pair in new), strict=True)
            )
            for pair, before, both, alone in zip(new, befores, boths, alones, strict=True):
                self._pieces[pair] = both.removeprefix(before) if both.startswith(before) else alone
        return tuple(self._pieces[pair] for pair in pairs)

    def _part(self, text: str, *, ordinary: bool = True) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=ordinary)["input_ids"])
        # a word-level vocabulary holds its special tokens as words too: as ordinary text they are unknown words
        return [self._special.get(i, i) for i in ids] if ordinary else ids

    def _behind_fence(self, text: str, *, ordinary: bool = True) -> list[int]:
        for fence in _FENCES:
            alone = self._part(fence, ordinary=ordinary)
            both = self._part(fence + text, ordinary=ordinary)
            if both[: len(alone)] == alone:
                return both[len(alone) :]
        return self._part(text, ordinary=ordinary)

    def _front(self) -> tuple[int, ...]:
        bare = list(self.tokenizer("a", add_special_tokens=False)["input_ids"])
        whole = list(self.tokenizer("a")["input_ids"])
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return tuple(whole[:start])
        return ()
