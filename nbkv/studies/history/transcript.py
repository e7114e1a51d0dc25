"""A transcript of an agent with a tool: one task, twelve calls with thinking before each, and a question afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from nbkv.errors import BadOption
from nbkv.tasks import ledger
from nbkv.tasks.vocabulary import ITEMS

STEPS = 12
CHANGES = ("thinking", "edited", "inserted", "rewritten")
_RULES = (
    "Read the notes . Every note says what was bought , by whom , and what it cost . "
    "Some notes name a person first , and what follows belongs to that person . "
)
_LINES = 5


@dataclass(frozen=True)
class ToolStep:
    """One call of the tool: what was thought before it, what was asked of it, and its result."""

    thought: str
    item: str
    result: str


@dataclass(frozen=True)
class ToolTranscript:
    """``system`` text and ``task``, the ``steps`` that followed, and the ``question`` that comes after them."""

    system: str
    task: str
    steps: tuple[ToolStep, ...]
    question: str

    def messages(self, marks: tuple[str, str], *, thinking: bool, steps: int | None = None) -> list[dict[str, Any]]:
        """Return its messages up to the result of step ``steps`` (None: the last), with or without ``thinking``."""
        opening, closing = marks
        said: list[dict[str, Any]] = [
            {"role": "system", "content": self.system},
            {"role": "user", "content": self.task},
        ]
        for step in self.steps[:steps]:
            call = {"type": "function", "function": {"name": "look_up", "arguments": {"item": step.item}}}
            content = f"{opening}{step.thought}{closing}" if thinking else ""
            said.append({"role": "assistant", "content": content, "tool_calls": [call]})
            said.append({"role": "tool", "content": step.result})
        return said


@dataclass(frozen=True)
class ChangedHistory:
    """What was asked first (``before``), and what is asked now, with one early thing changed.

    ``after`` are the messages up to the answer to ``before``, which comes next, then the ``question``. ``variables``
    are those of the template then and now.
    """

    before: list[dict[str, Any]]
    after: list[dict[str, Any]]
    question: str
    variables: tuple[Mapping[str, str], Mapping[str, str]]

    def asked(self, answer: object) -> list[dict[str, Any]]:
        """Return the messages that are asked now, ``answer`` being what was said to ``before``."""
        said = {"role": "assistant", "content": [answer]}
        return [*self.after, said, {"role": "user", "content": self.question}]


def changed(transcript: ToolTranscript, change: str, marks: tuple[str, str], *, strips: bool) -> ChangedHistory:
    """Return ``transcript`` before and after a ``change``.

    ``thinking``: it is left out once the user speaks again, by the template if that ``strips`` it, else by who writes
    the messages. The others are changes of a transcript that had none: the task is ``edited``, a call with its result
    ``inserted`` behind the second one, the template's first line ``rewritten``.
    """
    thinks = change == "thinking"
    before = transcript.messages(marks, thinking=thinks)
    now, then = dict[str, str](), dict[str, str]()
    if change == "thinking":
        after = before if strips else transcript.messages(marks, thinking=False)
    elif change == "edited":
        after = replace(transcript, task=f"Please , {transcript.task}").messages(marks, thinking=False)
    elif change == "inserted":
        first, second, *rest = transcript.steps
        steps = (first, second, ToolStep("", "market", "The market was open at noon . It rained at night ."), *rest)
        after = replace(transcript, steps=steps).messages(marks, thinking=False)
    elif change == "rewritten":
        after, then, now = before, {"now": "in the morning"}, {"now": "at night"}
    else:
        message = f"change={change!r} is not accepted: change is one of {', '.join(CHANGES)}"
        raise BadOption(message)
    return ChangedHistory(before, after, transcript.question, (then, now))


def transcripts(n: int, seed: int = 0, results: Sequence[Sequence[str]] = (), rules: int = 4) -> list[ToolTranscript]:
    """Return ``n`` transcripts of twelve steps, about notes or, where ``results`` are given, about these texts.

    Of given ones the last text of each is the question. ``rules``: how often the system text says them.
    """
    made = []
    for number, item in enumerate(ledger(seed=seed, n=n, chunks=STEPS, lines=_LINES)):
        rng = Random(f"history {seed} {number}")
        given = list(results[number][:-1]) if results else list(item.chunks)
        question = results[number][-1] if results else item.question
        steps = tuple(_step(rng, given[at % len(given)]) for at in range(STEPS))
        made.append(ToolTranscript(_RULES * rules, f"Look at the notes , then say : {question}", steps, question))
    return made


def _step(rng: Random, result: str) -> ToolStep:
    first, second, third = rng.sample(ITEMS, 3)
    thought = (
        f"The {first} was not there . I look for the {second} , then for the {third} . What belongs to whom is said "
        f"before , so what follows the {second} may belong to that person ."
    )
    return ToolStep(thought, second, result.strip())
