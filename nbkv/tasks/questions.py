"""How lines are asked about, and what the right answer reads like."""

from random import Random
from typing import Final

from nbkv.tasks.notes import Line

CUE: Final = "\nAnswer:"
"""Stands between a question and its answer; the chat template writes the same words."""

NOTED: Final = "Noted."
"""The answer to notes that ask nothing."""

_COST: Final = (
    "How much was the {item}?",
    "What was the price of the {item}?",
    "What was paid for the {item}?",
    "What did the {item} cost?",
)
_COST_WEIGHTS: Final = (2, 2, 2, 1)
_WHO: Final = ("Who paid for the {item}?", "Who bought the {item}?")
_EVERYTHING: Final = ("What did {person} buy?", "What is known about {person}?")
_WHO_SHARE: Final = 0.35


def ask(rng: Random, line: Line, *, who: bool | None = None) -> tuple[str, str]:
    """Ask about an answerable line; `who` asks for the buyer, else the price. Gives the answer too."""
    if rng.random() < _WHO_SHARE if who is None else who:
        return rng.choice(_WHO).format(item=line.item), f"{line.person}."
    cost = rng.choices(_COST, _COST_WEIGHTS)[0]
    return cost.format(item=line.item), f"{line.amount} {line.currency}."


def ask_everything(rng: Random, bought: list[Line]) -> tuple[str, str]:
    """Ask for everything one person bought; the answer takes 4 tokens a line."""
    question = rng.choice(_EVERYTHING).format(person=bought[0].person)
    return question, ", ".join(f"{x.item} {x.amount} {x.currency}" for x in bought) + "."
