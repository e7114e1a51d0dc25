"""How lines are asked about, and what the right answer reads like."""

from random import Random
from typing import Final

from nbkv.tasks.writer import NoteLine

NOTED: Final = "Noted."
"""The answer to notes that ask nothing."""

_COST: Final = ("How much was the {item}?", "What was paid for the {item}?", "And the {item}?")
_EVERYTHING: Final = ("What is known about {person}?", "And {person}?")


def ask(rng: Random, line: NoteLine) -> tuple[str, str]:
    """Ask for the price of an answerable line; gives the answer too."""
    return rng.choice(_COST).format(item=line.item), f"{line.amount} {line.currency}."


def ask_everything(rng: Random, section: list[NoteLine]) -> tuple[str, str]:
    """Ask for one person's section (declaration first); the answer says each line with its currency, in 4 tokens."""
    head, *bought = section
    said = " ".join(f"{line.item} {line.amount} {head.currency}." for line in bought)
    return rng.choice(_EVERYTHING).format(person=head.person), said
