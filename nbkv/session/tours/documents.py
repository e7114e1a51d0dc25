"""A user's documents: texts, files or folders, and prompts made of them that repeat documents in other places."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nbkv.errors import BadOption, BadPrompt, LoadError
from nbkv.tasks.items import Item

ACCEPTED = "documents are texts, text files, or folders of .txt and .md files, one or a list of them"
QUESTION = "What is the most important point of these texts? Answer in one sentence."
INSTRUCTION = "Answer from the following texts.\n\n"
MOST = 50  # documents of a folder
PER_PROMPT = 3  # documents in a prompt, where there are so many
_KINDS = (".md", ".txt")
_PARAGRAPHS = re.compile(r"\n\s*\n")


def read_documents(documents: object) -> list[str]:
    """Return the texts of ``documents``, each once, in the order given; one long text alone comes in its paragraphs.

    A word without spaces is the name of a file or folder, what has spaces is a text, unless a file has that very name.
    Raises ``LoadError`` for what cannot be read as text, and ``BadOption`` where there is nothing.
    """
    if not isinstance(documents, (str, Path, Iterable)):
        message = f"documents is a {type(documents).__name__} (accepted: {ACCEPTED})"
        raise BadOption(message)
    listed = [documents] if isinstance(documents, (str, Path)) else list(documents)
    texts = list(dict.fromkeys(text.strip() for each in listed for text in _texts(each) if text.strip()))
    if len(texts) == 1:
        texts = list(dict.fromkeys(part.strip() for part in _PARAGRAPHS.split(texts[0]) if part.strip()))
    if not texts:
        message = f"there is nothing in documents (accepted: {ACCEPTED})"
        raise BadOption(message)
    return texts


def made_prompts(documents: Sequence[str], questions: str | Iterable[str] | None, n: int) -> list[Item]:
    """Return ``n`` prompts of some documents each, drawn anew for each, with ``questions`` (None: one of ours) in turn.

    The draw is always the same. Raises ``BadPrompt`` for a question that is none.
    """
    asked = [QUESTION] if questions is None else [questions] if isinstance(questions, str) else list(questions)
    if not asked or not all(isinstance(each, str) and each.strip() for each in asked):
        message = "questions are non-empty texts, one or a list of them"
        raise BadPrompt(message)
    draw, size = random.Random(0), min(PER_PROMPT, len(documents))
    return [
        Item(
            [f"{text}\n\n" for text in draw.sample(list(documents), size)],
            asked[number % len(asked)],
            [],
            "tour",
            instruction=INSTRUCTION,
        )
        for number in range(n)
    ]


def _texts(document: object) -> Iterator[str]:
    if isinstance(document, str) and not _names_something(document):
        yield document
    elif isinstance(document, (str, Path)):
        path = Path(document).expanduser()
        if path.is_dir():
            found = sorted(each for each in path.rglob("*") if each.suffix.lower() in _KINDS and each.is_file())
            yield from map(_read, found[:MOST])
        else:
            yield _read(path)
    else:
        message = f"a document is a {type(document).__name__} (accepted: {ACCEPTED})"
        raise BadOption(message)


def _names_something(text: str) -> bool:
    """Whether ``text`` is the name of a file or folder, there or not."""
    if not text.strip() or "\n" in text:
        return False
    try:
        return Path(text).expanduser().exists() or not any(map(str.isspace, text.strip()))
    except (OSError, ValueError, RuntimeError):  # too long for a name
        return False


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        message = f"cannot read the document {path}: {error.strerror} (accepted: {ACCEPTED})"
    except UnicodeDecodeError:
        message = f"{path} cannot be read as text (accepted: {ACCEPTED})"
    raise LoadError(message)
