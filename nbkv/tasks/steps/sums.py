"""Sums: several numbers added one at a time, a line each, so that every step of an answer can be checked.

For real models, small ones too: the chunks are solved examples, the question is one more sum.
"""

from __future__ import annotations

from random import Random

from nbkv.errors import BadOption
from nbkv.scalars import is_whole
from nbkv.tasks.items import Item


def sums(seed: int = 0, n: int = 64, terms: int = 5, *, largest: int = 9, shots: int = 4) -> list[Item]:
    """Return ``n`` sums of ``terms`` numbers from 2 to ``largest``, behind ``shots`` solved ones, each its own chunk.

    The answer is a line a step (``3 + 8 = 11``), and a last one with the total. ``StepCheck(item)`` says which of an
    answer's lines are right.
    """
    for name, value, least in (("n", n, 1), ("terms", terms, 2), ("largest", largest, 2), ("shots", shots, 1)):
        if not is_whole(value, least):
            message = f"{name}={value!r} is not accepted: {name} is a whole number >= {least}"
            raise BadOption(message)
    rng = Random(f"sums {seed}")
    return [_item(rng, terms, largest, shots) for _ in range(n)]


def _item(rng: Random, terms: int, largest: int, shots: int) -> Item:
    drawn = [[rng.randint(2, largest) for _ in range(terms)] for _ in range(shots + 1)]
    solved = [f"{_asked(numbers)}{_answer(numbers)}\n\n" for numbers in drawn[:-1]]
    return Item(solved, _asked(drawn[-1]), [_answer(drawn[-1])], "sums")


def _asked(numbers: list[int]) -> str:
    return f"Add {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}.\n"


def _answer(numbers: list[int]) -> str:
    lines, total = [], numbers[0]
    for number in numbers[1:]:
        lines.append(f"{total} + {number} = {total + number}")
        total += number
    return "\n".join([*lines, f"Total: {total}"])
