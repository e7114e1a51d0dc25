"""Reads request logs: block hashes as Mooncake publishes them, token ids, or prompts that a tokenizer makes ids of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from nbkv.errors import LoadError
from nbkv.prompts.prompt import build
from nbkv.prompts.tokenizer import Codec
from nbkv.tasks.files.records import FileRecord, records

BLOCK = 512  # tokens that one of Mooncake's hashes stands for (arXiv 2407.00079)
_ACCEPTED: Final = (
    "JSON lines with hash_ids and input_length, as Mooncake's traces have them; with prompt_ids; or, where a model is "
    "named, with prompt, a text or messages"
)


class Tokenizing(Protocol):
    """Makes token ids of prompts."""

    def __call__(self, prompt: object) -> tuple[int, ...]:
        """Return the ids of ``prompt``; raises ``BadPrompt``."""


@dataclass(frozen=True)
class LoggedRequest:
    """One request: ``path`` is what must be the same for KV to be reused, one id a block; ``answer`` ids follow it.

    ``tokens`` of the prompt; the last block may be filled in part.
    """

    path: tuple[int, ...]
    tokens: int
    answer: tuple[int, ...] = ()


@dataclass(frozen=True)
class RequestLog:
    """Requests in the order they came, each id of a path standing for ``block`` tokens."""

    name: str
    block: int
    requests: tuple[LoggedRequest, ...]

    @property
    def tokens(self) -> int:
        """Return the tokens of all prompts."""
        return sum(request.tokens for request in self.requests)


def read_log(path: str | Path, tokenizing: Tokenizing | None = None) -> RequestLog:
    """Return the log in the file at ``path``; all its records are of one kind. Raises ``LoadError``, ``BadPrompt``."""
    found = records(path, _ACCEPTED)
    by_hash = "hash_ids" in found[0].data
    read = [_hashed(record) if by_hash else _told(record, tokenizing) for record in found]
    return RequestLog(Path(path).name, BLOCK if by_hash else 1, tuple(read))


def tokenizing_of(tokenizer: object) -> Tokenizing:
    """Return what makes ids of prompts as a session with ``tokenizer`` does."""
    codec = Codec(tokenizer)
    return lambda prompt: build(codec, prompt, "", frozenset()).ids


def _hashed(record: FileRecord) -> LoggedRequest:
    path, tokens = _ids(record, "hash_ids"), record.get("input_length", int)
    if not (len(path) - 1) * BLOCK < tokens <= len(path) * BLOCK:
        record.refuse(f"input_length is {tokens}, and there are {len(path)} hash_ids of {BLOCK} tokens")
    return LoggedRequest(path, tokens)


def _told(record: FileRecord, tokenizing: Tokenizing | None) -> LoggedRequest:
    if "prompt_ids" in record.data:
        ids = _ids(record, "prompt_ids")
    elif tokenizing is None:
        message = f"{record.where}: a prompt is text until a tokenizer reads it: name a model (accepted: {_ACCEPTED})"
        raise LoadError(message)
    else:
        ids = tokenizing(record.get("prompt", object))
    answer = _ids(record, "token_ids") if record.data.get("token_ids") else ()
    return LoggedRequest(ids, len(ids), answer)


def _ids(record: FileRecord, key: str) -> tuple[int, ...]:
    listed: Sequence[object] = record.get(key, list)
    ids = tuple(each for each in listed if isinstance(each, int) and not isinstance(each, bool))
    if len(ids) < len(listed):
        record.refuse(f"{key!r} holds more than whole numbers")
    return ids
