"""Questions about lines of notes, and their expected answers."""

from random import Random
from typing import Final

from nbkv.tasks.writer import NoteLine

NOTED: Final = "Noted."
"""The answer to a turn without a question."""

_COST: Final = ("How much was the {item}?", "What was paid for the {item}?", "And the {item}?")
_EVERYTHING: Final = ("What is known about {person}?", "And {person}?")


def ask(rng: Random, line: NoteLine) -> tuple[str, str]:
    """Return a question for the price of the answerable ``line``, in one of three wordings, and its answer."""
    return rng.choice(_COST).format(item=line.item), f"{line.amount} {line.currency}."


def ask_everything(rng: Random, section: list[NoteLine]) -> tuple[str, str]:
    """Return a question for all lines of one person's ``section``, which begins with its declaration, and its answer.

    The answer gives each line's item, amount and currency, in 4 tokens.
    """
    head, *bought = section
    said = " ".join(f"{line.item} {line.amount} {head.currency}." for line in bought)
    return rng.choice(_EVERYTHING).format(person=head.person), said
