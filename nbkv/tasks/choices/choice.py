"""A choice: an item whose answer is one of a few options, so that what a model decides can be read off their odds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from random import Random

from nbkv.errors import BadOption
from nbkv.scalars import is_whole
from nbkv.tasks.items import Item

METRICS = ("match_any",)
"""What generated text is scored by: whether it names the right option."""


@dataclass(frozen=True, slots=True)
class Choice(Item):
    """An item with ``options``, of which that at place ``right`` is the answer; a model picks the likeliest one."""

    options: tuple[str, ...] = ()
    right: int = 0


def check_options(options: object, most: int) -> int:
    """Return how many options an item has; raises ``BadOption`` unless it is from 2 to ``most``."""
    if not is_whole(options, 2) or options > most:
        message = f"options={options!r:.60} is not accepted: a whole number from 2 to {most}"
        raise BadOption(message)
    return int(options)


def last_words(items: Sequence[Item], options: int = 4, seed: int = 0) -> list[Choice]:
    """Return ``items`` as choices between their answer and the same with the last word of others' answers.

    Of ``ledger``: between currencies, which a carried line's declaration said chunks earlier. Raises ``BadOption``
    where there are fewer last words than ``options``.
    """
    known = sorted({item.answers[0].rsplit(maxsplit=1)[-1] for item in items})
    count, rng, found = check_options(options, len(known)), Random(f"last words {seed}"), []
    for item in items:
        head, _, last = item.answers[0].rpartition(" ")
        words = [*rng.sample([word for word in known if word != last], count - 1), last]
        rng.shuffle(words)
        own = {field.name: getattr(item, field.name) for field in fields(Item)}
        texts = tuple(f"{head} {word}".strip() for word in words)
        found.append(Choice(**own, options=texts, right=words.index(last)))
    return found
