"""Agents: facts handed along a chain of agents, each of which writes down what the next ones need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from nbkv.errors import BadOption
from nbkv.tasks.questions import ask_everything
from nbkv.tasks.vocabulary import AMOUNTS, ITEMS, NAMES
from nbkv.tasks.writer import CARRIED, HEADER, NoteWriter

TELLER: Final = "teller"
"""The last agent, which is asked for one line and sees only what the others wrote."""

_TWO_DIGITS: Final = range(10, 100)  # what a small model copies without a slip
_FORMS: Final = ("list", "notes")
_TITLE: Final = "page"
"""The first line of every list: prompts then differ in what stands in their slots only, whatever the chain."""
_TOKENS: Final = {"list": 9, "notes": 5}  # of a line that an agent writes, with some room


class Answered(Protocol):
    """What an agent gave: a result."""

    @property
    def text(self) -> str:
        """Return the answer."""


@dataclass(frozen=True, slots=True)
class AgentTask:
    """Agents with known answers: ``prompts`` and ``inputs`` are those of a pipeline, ``lines`` what each has to write.

    ``stop`` and ``max_new_tokens`` are how it is to be run. ``teller`` comes last: its one line is what is asked.
    """

    prompts: dict[str, str]
    inputs: dict[str, str]
    lines: dict[str, list[str]]
    kind: str
    max_new_tokens: int
    stop: str | None = None

    def scores(self, results: Mapping[str, Answered]) -> dict[str, float]:
        """Return for each agent the share of its lines that stand in its answer, whole and each once; 0 for none."""
        return {
            name: _share(wanted, results[name].text if name in results else "") for name, wanted in self.lines.items()
        }


def agents(
    seed: int = 0, n: int = 16, agents: int = 5, *, first: int = 10, lines: int = 2, form: str = "list"
) -> list[AgentTask]:
    """Return ``n`` chains of ``agents`` agents: keepers, which write things down, and a teller, which is asked for one.

    ``form="list"`` is for real models: keeper 1 copies a list of ``first`` lines, such as "lamp = 34", each later one
    the list of the one before it with ``lines`` new ones behind it. ``form="notes"`` is for the bundled readers: every
    keeper reads what all before it wrote, then notes of ``first`` (later ones: ``lines``) lines about a person, and
    writes what these say. The teller is asked for a line that any of them may have brought. The same arguments give the
    same chains everywhere. Raises ``BadOption`` for sizes that no chain can have.
    """
    for name, value, least in (("n", n, 1), ("agents", agents, 2), ("first", first, 1), ("lines", lines, 1)):
        if value < least:
            message = f"{name}={value}: must be at least {least}"
            raise BadOption(message)
    things = first + (agents - 2) * lines
    if things > min(len(ITEMS), len(AMOUNTS if form == "notes" else _TWO_DIGITS)) or (
        form == "notes" and agents > len(NAMES)
    ):
        message = f"agents={agents}, first={first}, lines={lines}: there are not enough different things to write down"
        raise BadOption(message)
    if form not in _FORMS:
        message = f"form={form!r} is not accepted: form is {' or '.join(map(repr, _FORMS))}"
        raise BadOption(message)
    rng, make = Random(f"agents {seed}"), _list if form == "list" else _notes
    sizes = [first, *[lines] * (agents - 2)]
    return [make(rng, sizes) for _ in range(n)]


def _list(rng: Random, sizes: list[int]) -> AgentTask:
    items, amounts = iter(rng.sample(ITEMS, len(ITEMS))), iter(rng.sample(_TWO_DIGITS, len(_TWO_DIGITS)))
    known: list[tuple[str, int]] = []
    prompts, inputs, wanted = {}, {}, {}
    for number, size in enumerate(sizes, 1):
        new = [(next(items) if known or at else _TITLE, next(amounts)) for at in range(size)]
        known += new
        begun = f"{_TITLE} ="  # how the list begins is given, or a small model leaves out its first lines
        before = f"{begun}{{{{keeper{number - 1}}}}}\n" if number > 1 else ""
        prompts[f"keeper{number}"] = f"The list:\n{before}{{{{new{number}}}}}\n\nThe same list again:\n{begun}"
        inputs[f"new{number}"] = "\n".join(_line(*each) for each in new)
        wanted[f"keeper{number}"] = [str(known[0][1]), *(_line(*each) for each in known[1:])]
    asked, amount = rng.choice(known[1:] or known)
    listed = f"{_TITLE} ={{{{keeper{len(sizes)}}}}}"
    prompts[TELLER] = f"The list:\n{listed}\n\nOne line of the list again:\n{asked} ="
    room = _TOKENS["list"] * len(known)
    return AgentTask(prompts, inputs, wanted | {TELLER: [str(amount)]}, "list", room, "\n\n")


def _line(item: str, amount: int) -> str:
    return f"{item} = {amount}"


def _notes(rng: Random, sizes: list[int]) -> AgentTask:
    writer = NoteWriter(rng)
    prompts, inputs, wanted = {}, {}, {}
    for number, size in enumerate(sizes, 1):
        section = [writer.write(form) for form in (HEADER, *[CARRIED] * size)]
        question, answer = ask_everything(rng, section)
        before = "".join(f"{{{{keeper{earlier}}}}} " for earlier in range(1, number))
        prompts[f"keeper{number}"] = f"{before}{{{{notes{number}}}}}{question}"
        inputs[f"notes{number}"] = "".join(line.text for line in section)
        wanted[f"keeper{number}"] = [f"{line}." for line in answer.removesuffix(".").split(". ")]
    line = rng.choice([line for lines in wanted.values() for line in lines])
    item, said = line.split(" ", maxsplit=1)
    prompts[TELLER] = "".join(f"{{{{{name}}}}} " for name in wanted) + f"How much was the {item}?"
    room = _TOKENS["notes"] * max(sizes) + len(sizes)
    return AgentTask(prompts, inputs, wanted | {TELLER: [said]}, "notes", room)


def _share(wanted: list[str], text: str) -> float:
    """Return the share of ``wanted`` lines that ``text`` has; a single one must be its first line."""
    if len(wanted) == 1:
        return float(text.strip().split("\n")[0].strip() == wanted[0])
    said = [line.strip() for line in text.replace(". ", ".\n").split("\n")]
    return sum(said.count(line) == 1 for line in wanted) / len(wanted)
