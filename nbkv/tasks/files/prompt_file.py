"""Prompts from a file, with or without answers: what people ask, to be measured rather than scored."""

from pathlib import Path
from random import Random
from typing import Any, Final

from nbkv.errors import BadOption, LoadError
from nbkv.scalars import is_whole
from nbkv.show.units import plural
from nbkv.tasks.files.jsonl import item_of, plain_item
from nbkv.tasks.files.records import FileRecord, read_text, records
from nbkv.tasks.items import Item

_ACCEPTED: Final = (
    "JSON lines with chunks [text, …] and question; with prompt, a text or messages; those that from_jsonl reads; or "
    "one prompt a line as plain text"
)
_CHUNKS = 8  # pieces that a context in one piece is cut into

PromptRecord = Item | str | list[Any]


def prompt_file(path: str | Path, *, n: int | None = None, seed: int = 0) -> list[PromptRecord]:
    """Return the prompts in the file at ``path`` in their order, or ``n`` of them drawn at random by ``seed``.

    A file that begins with a bracket is JSON lines, or one JSON list. A record is ``{"prompt": text or messages}``;
    ``{"chunks": [text, …], "question": text}``, an item, whose ``answers`` may be missing; or what ``from_jsonl``
    reads. In any other file each line that is not blank is a prompt. Raises ``LoadError`` and ``BadOption``.
    """
    text = read_text(path, _ACCEPTED)
    if text.lstrip()[:1] in {"{", "["}:
        folder = Path(path).expanduser().resolve().parent.name
        found = [_prompt(record, folder) for record in records(path, _ACCEPTED)]
    else:
        found = [line for line in text.splitlines() if line.strip()]
    if not found:
        message = f"{path}: holds no prompts (accepted: {_ACCEPTED})"
        raise LoadError(message)
    if n is None:
        return found
    if not (is_whole(n, 1) and n <= len(found)):
        message = f"n={n!r} is not accepted: {path} holds {plural(len(found), 'prompt')}, n is a whole number from 1 on"
        raise BadOption(message)
    return Random(f"order {seed}").sample(found, n)


def _prompt(record: FileRecord, folder: str) -> PromptRecord:
    data = record.data
    if "prompt" in data:
        prompt = data["prompt"]
        if not prompt or not isinstance(prompt, (str, list)):
            record.refuse(f"'prompt' is {prompt!r:.40}")
        return prompt
    if "chunks" in data and not {"answers", "answer"} & data.keys():
        return plain_item(record, [], None)
    return item_of(record, _CHUNKS, folder, None)
