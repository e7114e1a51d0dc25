"""Questions over paragraphs: which paragraphs an item has, in which order, and where its hops are supported."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from nbkv.errors import BadOption
from nbkv.scalars import is_whole
from nbkv.tasks.items import Evidence, Item, Place

METRICS: Final = ("em", "f1", "rouge_l")
"""What answers to such questions are scored by; the first is the item's `correct`."""

INSTRUCTION: Final = "Answer the question in a few words, from the passages below.\n\n"
"""Stands before the passages."""


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A title and the sentences below it, which are joined as they are."""

    title: str
    sentences: tuple[str, ...]

    @property
    def text(self) -> str:
        """Return the paragraph as a chunk: the title's line, the text, an empty line."""
        return f"{self.title}\n{''.join(self.sentences).strip()}\n\n"

    def place(self, chunk: int, sentence: int | None = None) -> Place:
        """Return where a sentence stands, or the whole paragraph with its title."""
        if sentence is None:
            return Place(chunk, 0, len(self.text.rstrip()))
        ahead, own = "".join(self.sentences[:sentence]), self.sentences[sentence]
        cut = len("".join(self.sentences)) - len("".join(self.sentences).lstrip())  # stripped at the front
        start = len(self.title) + 1 + max(0, len(ahead) + len(own) - len(own.lstrip()) - cut)
        return Place(chunk, start, start + len(own.strip()))


@dataclass(frozen=True, slots=True)
class Hop:
    """One step to the answer: the paragraph that supports it, and the sentences there (none: all of it)."""

    paragraph: int
    sentences: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its answers, its hops in order, and all its paragraphs; ``where`` it stands is for messages."""

    where: str
    text: str
    answers: tuple[str, ...]
    kind: str
    paragraphs: tuple[Paragraph, ...]
    hops: tuple[Hop, ...]
    name: str


def check_chunks(chunks: int | None) -> None:
    """Refuse a number of chunks that no item can have."""
    if chunks is not None and not is_whole(chunks, 1):
        message = f"chunks={chunks!r}: a whole number >= 1, or None for all"
        raise BadOption(message)


def item(question: Question, rng: Random, chunks: int | None) -> Item:
    """Return the item with ``chunks`` paragraphs (None, or fewer there: all), those that support it among them.

    Raises ``BadOption`` if more than ``chunks`` support it.
    """
    order = _order(question, rng, chunks)
    at = {paragraph: chunk for chunk, paragraph in enumerate(order)}
    return Item(
        chunks=[question.paragraphs[index].text for index in order],
        question=question.text,
        answers=list(question.answers),
        kind=question.kind,
        oracle=[Evidence(_places(question.paragraphs[hop.paragraph], hop, at[hop.paragraph])) for hop in question.hops],
        metrics=METRICS,
        instruction=INSTRUCTION,
        name=question.name,
    )


def _order(question: Question, rng: Random, chunks: int | None) -> list[int]:
    total, needed = len(question.paragraphs), {hop.paragraph for hop in question.hops}
    if chunks is not None and chunks < len(needed):
        message = (
            f"chunks={chunks}: {question.where} needs {len(needed)} paragraphs (give chunks >= {len(needed)}, or "
            "kinds= without such questions)"
        )
        raise BadOption(message)
    others = rng.sample([index for index in range(total) if index not in needed], total - len(needed))
    order = [*sorted(needed), *others][:chunks]
    rng.shuffle(order)
    return order


def _places(paragraph: Paragraph, hop: Hop, chunk: int) -> tuple[Place, ...]:
    return tuple(paragraph.place(chunk, sentence) for sentence in hop.sentences) or (paragraph.place(chunk),)


def unique(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the texts in their order, each once."""
    return tuple(dict.fromkeys(texts))
