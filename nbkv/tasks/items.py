"""What a task hands out: notes in chunks, a question, the expected answer, and where it stands."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Place:
    """Characters `[start, stop)` of `item.chunks[chunk]` (of `turns[chunk]` in a dialogue)."""

    chunk: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where one answer comes from.

    `asked`: the lines asked for. `giving`: the sentences that say what those lines mean; empty for
    lines that say everything themselves.
    """

    asked: tuple[Place, ...]
    giving: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """One question about notes that come in chunks.

    `kind` is `local` (the chunk of the line asked for holds all that is needed), `carried` (its
    meaning was given `distance` chunks earlier) or `report`. `oracle[i]` belongs to `answers[i]`.
    No token of an answer stands in `question`.
    """

    chunks: list[str]
    question: str
    answers: list[str]
    kind: str
    oracle: list[Evidence] = field(default_factory=list)
    distance: int = 0


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation: `turns[i]` is what the user says, `answers[i]` what is expected.

    `kinds[i]` is `local`, `carried`, or `noted` for a turn that only brings notes; places in
    `oracle[i]` count turns as chunks.
    """

    turns: list[str]
    answers: list[str]
    kinds: list[str]
    oracle: list[Evidence] = field(default_factory=list)
    kind: str = "chat"
