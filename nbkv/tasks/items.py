"""What a task generates: notes in chunks, a question, the expected answer, and the text spans that it follows from."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Place:
    """Characters ``[start, stop)`` of ``item.chunks[chunk]``; in a dialogue of ``turns[chunk]``."""

    chunk: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """The text spans that one answer follows from.

    ``asked`` are the lines asked for, ``giving`` the declarations that say whose they are and in which currency; empty
    for lines that say so themselves.
    """

    asked: tuple[Place, ...]
    giving: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One question about notes in ``chunks``, and the ``answers`` expected, which are one text in this order.

    ``kind`` is ``local`` (the chunk of the line asked for holds all that is needed), ``carried`` (its declaration is
    ``distance`` chunks earlier) or ``report`` (of a section that crosses ``distance`` chunk borders). ``oracle[i]`` is
    the evidence for ``answers[i]``. No token of an answer occurs in ``question``.
    """

    chunks: list[str]
    question: str
    answers: list[str]
    kind: str
    oracle: list[Evidence] = field(default_factory=list)
    distance: int = 0


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A dialogue: ``turns[i]`` is the user's message, ``answers[i]`` the expected reply.

    ``kinds[i]`` is ``local`` or ``carried``, as of an ``Item``, or ``noted`` for a turn that only brings notes. Places
    in ``oracle[i]`` count turns as chunks.
    """

    turns: list[str]
    answers: list[str]
    kinds: list[str]
    oracle: list[Evidence] = field(default_factory=list)
    kind: str = "chat"
