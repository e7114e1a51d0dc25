"""What a task hands out: text in chunks, a question, the expected answers, and where they stand."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """Characters ``[start, stop)`` of ``item.chunks[chunk]``; in a dialogue of ``turns[chunk]``."""

    chunk: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where one answer comes from, or one hop towards it.

    ``asked``: the lines asked for, or the sentences that support the hop. ``giving``: the sentences that
    say what those lines mean; empty for lines that say everything themselves.
    """

    asked: tuple[Place, ...]
    giving: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One question about text that comes in chunks.

    ``kind`` is ``local`` (the chunk of the line asked for holds all that is needed), ``carried`` (its
    meaning was given ``distance`` chunks earlier), ``report``, or what the task or the file says, such as
    ``bridge``, ``comparison``, ``2hop``. ``metrics`` are names of ``nbkv.tasks.metrics.METRICS``, the first of
    which is the item's ``correct``; under ``exact`` the ``answers`` are expected one behind another, under
    ``em``, ``f1``, ``rouge_l`` and ``match_any`` any one of them will do. ``oracle[i]`` belongs to ``answers[i]``;
    in a question of several hops to hop ``i``. ``instruction`` stands before the chunks and says how to
    answer. No token of an answer that the bundled readers are asked for stands in ``question``.
    """

    chunks: list[str]
    question: str
    answers: list[str]
    kind: str
    oracle: list[Evidence] = field(default_factory=list)
    distance: int = 0
    metrics: tuple[str, ...] = ("exact",)
    instruction: str = ""
    name: str = ""

    @property
    def hops(self) -> list[int]:
        """Return for each hop (or answer) the chunk that supports it."""
        return [evidence.asked[0].chunk for evidence in self.oracle]

    def prompt(self, parts: Sequence[Any], *, chat: bool = False) -> list[Any]:
        """Return the prompt with ``parts`` (texts or chunks of a session) in place of ``chunks``, the question last.

        With ``chat`` it is one message of the user, for models with a chat template.
        """
        before = [self.instruction] if self.instruction else []
        asked = [*before, *parts, self.question]
        return [{"role": "user", "content": asked}] if chat else asked


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
