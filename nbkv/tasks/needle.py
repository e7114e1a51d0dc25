"""Needle: numbers said somewhere in a text, asked for by their words (RULER, arXiv 2404.06654, section 3.1).

The words are the bundled readers'; what is asked is for real models, the readers were not trained for it.
"""

from random import Random
from typing import Final

from nbkv.errors import BadOption
from nbkv.scalars import is_whole
from nbkv.tasks.items import Item
from nbkv.tasks.vocabulary import AMOUNTS, ITEMS
from nbkv.tasks.writer import Haystack, check_size

_SAID: Final = "One of the magic numbers for {key} is {value}."
_ASKED: Final = "What are all the magic numbers for {keys}?"
_VALUES: Final = tuple(value for value in AMOUNTS if value >= 100)  # noqa: PLR2004  (three digits: none is part of another)


def needle(
    seed: int = 0,
    n: int = 64,
    chunks: int = 8,
    lines: int = 6,
    *,
    keys: int = 4,
    values: int = 1,
    queries: int = 1,
) -> list[Item]:
    """``n`` questions for numbers that stand in a text of ``chunks`` chunks of ``lines`` sentences.

    ``keys`` words have numbers, ``values`` each, every one in a sentence of its own; the question asks for all numbers
    of ``queries`` of the words. As in RULER: ``keys=1`` is the single needle, more of them multi-key, ``values=4``
    multi-value, ``queries=4`` multi-query, and ``kind`` says so (``single``, ``multikey``, ``multivalue``,
    ``multiquery``: what the question asks for before what it has to be told from). ``answers`` are the numbers, in the
    order of the words asked for and of the text, and ``oracle[i]`` the sentence of ``answers[i]``. Scored by
    ``recall``, RULER's string match on whole words.
    """
    check_size(n, chunks, lines)
    for name, value in (("keys", keys), ("values", values), ("queries", queries)):
        if not is_whole(value, 1):
            message = f"{name}={value!r}: a whole number >= 1"
            raise BadOption(message)
    if queries > keys:
        message = f"queries={queries} is more than keys={keys}, the words that can be asked for"
        raise BadOption(message)
    if keys * values > min(chunks * lines, len(_VALUES)):
        message = f"keys={keys} x values={values}: more than the text's {chunks * lines} sentences (give more lines)"
        raise BadOption(message)
    rng = Random(f"needle {seed}")
    return [_item(rng, chunks, lines, keys, values, queries) for _ in range(n)]


def _item(rng: Random, chunks: int, lines: int, keys: int, values: int, queries: int) -> Item:  # noqa: PLR0917
    words = rng.sample(ITEMS, keys)
    numbers = rng.sample(_VALUES, keys * values)
    places = rng.sample(range(chunks * lines), keys * values)
    # the numbers of a word in the order of the text, so that there is one right order of the answers
    owned = {word: sorted(places[i * values : (i + 1) * values]) for i, word in enumerate(words)}
    number = dict(zip(places, numbers, strict=True))
    told = {at: _SAID.format(key=word, value=number[at]) for word, ats in owned.items() for at in ats}
    text = Haystack(rng, chunks, lines, told)
    asked = rng.sample(words, queries)
    answering = [at for word in asked for at in owned[word]]
    return Item(
        chunks=text.chunks,
        question=_ASKED.format(keys=_listed(asked)),
        answers=[str(number[at]) for at in answering],
        kind=_kind(keys, values, queries),
        oracle=[text.evidence(at) for at in answering],
        metrics=("recall",),
    )


def _listed(words: list[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _kind(keys: int, values: int, queries: int) -> str:
    if queries > 1:
        return "multiquery"
    if values > 1:
        return "multivalue"
    return "multikey" if keys > 1 else "single"
