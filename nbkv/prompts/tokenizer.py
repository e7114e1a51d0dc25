"""Tokenizing and detokenizing, by rules that make a chunk's token ids independent of the text around it."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

from nbkv.errors import BadPrompt
from nbkv.prompts.chat_template import ChatTemplate, any_of

# Text put before a part so that a tokenizer which marks the beginning of a text (SentencePiece's leading space) marks
# that instead; the first one that does not merge with the part is used.
_FENCES = ("\n", "|", "a", ".", "0")
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))  # SentencePiece's tokens for what its vocabulary lacks
_HALF = re.compile("[\ud800-\udfff]")  # of a pair of surrogates
_MOST_PIECES = 100_000  # in the cache of ``Codec.pieces``
# Whether special tokens are split is a setting of the tokenizer itself, not of the call: one text at a time.
_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


class Codec:
    """A transformers tokenizer with the four encodings that a prompt needs: whole text, part, chat template, pieces.

    ``bos_ids`` are the special tokens (BOS) that the tokenizer puts before a text by itself; ``()`` if none.
    ``byte_tokens`` are the ids of single bytes, of which several may make a character.
    """

    def __init__(self, tokenizer: Any) -> None:  # noqa: ANN401  (slow and fast tokenizers share no typed parent)
        """Find out which special tokens ``tokenizer`` adds, and whether it marks the beginning of a text."""
        self.tokenizer = tokenizer
        with _LOCKS_LOCK:
            self._lock = _LOCKS.setdefault(tokenizer, threading.RLock())
        named = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
        added = ((i, token.content) for i, token in tokenizer.added_tokens_decoder.items() if token.special)
        self._special = dict(named) | dict(added)
        self._maybe_silent = frozenset(self._special)
        self._silent: dict[int, bool] = {}
        self.byte_tokens = self._byte_tokens()
        self._special.pop(tokenizer.unk_token_id, None)  # stands for text that the vocabulary lacks, so it is ordinary
        self._template: ChatTemplate | None = None
        self._pieces: dict[tuple[int, ...], str] = {}  # a cache: decoding token by token is slow, and prompts repeat
        alone = {fence: self._tried(fence) for fence in _FENCES}
        self._fences = {fence: ids for fence, ids in alone.items() if ids and tokenizer.decode(ids).endswith(fence)}
        probe = next((text for text in ("a", *_FENCES) if alone[text]), "a")
        self.bos_ids = self._leading_ids(probe, alone[probe])
        self._marks_beginning = bool(alone[probe]) and alone[probe] != self._behind_fence(probe, ordinary=True)

    @property
    def has_template(self) -> bool:
        """Return whether the tokenizer has a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def unknown(self, ids: Sequence[int]) -> int:
        """Return how many of ``ids`` stand for text that the vocabulary lacks."""
        tokenizer = self.tokenizer
        ends = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}  # GPT-2 names one of them so
        return 0 if tokenizer.unk_token_id in {None, *ends} else list(ids).count(tokenizer.unk_token_id)

    @property
    def chat_template(self) -> ChatTemplate | None:
        """Return the tokenizer's chat template as it is now; None if it has none."""
        source = getattr(self.tokenizer, "chat_template", None)
        if not source:
            return None
        if self._template is None or self._template.source != source:
            self._template = ChatTemplate(self.tokenizer, source, frozenset(self._special.values()))
        return self._template

    def is_control(self, token: int) -> bool:
        """Return whether ``token`` is one of those that text never becomes: special, or written by the template."""
        return token in self._control

    @property
    def _control(self) -> AbstractSet[int]:
        template = self.chat_template
        return self._special.keys() | template.written_ids if template is not None else self._special.keys()

    def is_silent(self, token: int) -> bool:
        """Return whether decoding leaves ``token`` out, as it does special ones."""
        if token not in self._maybe_silent:
            return False
        if token not in self._silent:
            self._silent[token] = not self.text([token])
        return self._silent[token]

    def spelling(self, token: int) -> str:
        """Return how ``token`` is spelled in the vocabulary."""
        return str(self.tokenizer.convert_ids_to_tokens(token))

    def whole(self, text: str) -> list[int]:
        """Return the ids of ``text`` exactly as transformers encodes it, special tokens included.

        Raises ``BadPrompt`` where the vocabulary lacks a character and has no unknown token.
        """
        return self._encode(text)

    def part(self, text: str, *, first: bool) -> list[int]:
        """Return the ids of a prompt's part; only a ``first`` part is marked as the beginning of a text.

        No special tokens are added, and control words that ``text`` spells out (special tokens, and what the chat
        template writes) are encoded as ordinary text. Raises ``BadPrompt`` where the vocabulary lacks a character and
        has no unknown token.
        """
        ids = self._placed(text, first=first, ordinary=True)
        return ids if self._control.isdisjoint(ids) else self._spelled(text, first=first)

    def template(self, text: str, *, first: bool) -> list[int]:
        """Return the ids of a chat template's output: special tokens in it are encoded as such, none are added."""
        return self._placed(text, first=first, ordinary=False)

    def text(self, ids: Sequence[int]) -> str:
        """Detokenize ``ids``, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return for each token of ``ids`` the text that it adds to the token before it, special tokens included.

        Decoded alone a token may lack the space before it.
        """
        pairs = [tuple(ids[max(0, at - 1) : at + 1]) for at in range(len(ids))]
        if len(self._pieces) > _MOST_PIECES:
            self._pieces = {}
        known = self._pieces  # another thread may begin a new one meanwhile
        new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        if new:
            befores, boths, alones = (
                self.tokenizer.batch_decode(list(lists), skip_special_tokens=False)
                for lists in zip(*(([*pair[:-1]], [*pair], [pair[-1]]) for pair in new), strict=True)
            )
            for pair, before, both, alone in zip(new, befores, boths, alones, strict=True):
                known[pair] = both.removeprefix(before) if both.startswith(before) else alone
        return tuple(known[pair] for pair in pairs)

    def _placed(self, text: str, *, first: bool, ordinary: bool) -> list[int]:
        if first or not self._marks_beginning:
            return self._bare(text, ordinary=ordinary)
        return self._behind_fence(text, ordinary=ordinary)

    def _spelled(self, text: str, *, first: bool) -> list[int]:
        """Return the ids of ``text`` where control words are words of the vocabulary too: these are cut in two."""
        template, control = self.chat_template, self._control
        words = any_of(frozenset(self._special.values())) if template is None else template.control
        cuts = [match.start() + 1 for match in words.finditer(text)]
        ids: list[int] = []
        for start, stop in pairwise((0, *cuts, len(text))):
            if piece := text[start:stop]:
                ids += self._placed(piece, first=first and not start, ordinary=True)
        unknown = self.tokenizer.unk_token_id  # for special tokens that cannot be cut; without it they vanish
        return [unknown if i in control else i for i in ids if i not in control or unknown is not None]

    def _behind_fence(self, text: str, *, ordinary: bool) -> list[int]:
        for fence, alone in self._fences.items():
            both = self._bare(fence + text, ordinary=ordinary)
            if both[: len(alone)] == alone:
                return both[len(alone) :]
        return self._bare(text, ordinary=ordinary)

    def _bare(self, text: str, *, ordinary: bool) -> list[int]:
        return self._encode(text, add_special_tokens=False, split_special_tokens=ordinary)

    def _encode(self, text: str, **how: bool) -> list[int]:
        try:
            with self._lock:
                return list(self.tokenizer(text, **how)["input_ids"])
        except Exception as error:  # a vocabulary without an unknown token may refuse what it cannot write
            if half := _HALF.search(text):
                message = (
                    f"the text has {half[0]!r} at {half.start():,}, half of a character, which no tokenizer can write"
                )
                raise BadPrompt(message + " (leave it out, or read its file with errors='replace')") from None
            message = f"the tokenizer cannot write {text!r:.60}: {next(iter(str(error).splitlines()), repr(error))}"
            raise BadPrompt(message) from error

    def _tried(self, text: str) -> list[int]:
        try:
            return self._bare(text, ordinary=True)
        except BadPrompt:
            return []

    def _leading_ids(self, text: str, bare: list[int]) -> tuple[int, ...]:
        whole = self._encode(text) if bare else []
        for start in range(len(whole) - len(bare) + 1):
            if whole[start : start + len(bare)] == bare:
                return tuple(whole[:start])
        return ()

    def _byte_tokens(self) -> frozenset[int]:
        ids = self.tokenizer.convert_tokens_to_ids(list(_BYTES))
        known = [i for i in ids if i is not None]
        names = self.tokenizer.convert_ids_to_tokens(known)
        return frozenset(i for i, name in zip(known, names, strict=True) if name in _BYTES)
