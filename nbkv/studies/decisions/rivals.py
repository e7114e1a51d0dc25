"""The dumbest rivals of a decision: chance, the first option, and words that question and option share (BM25)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random

from nbkv.tasks.choices.choice import Choice
from nbkv.tasks.metrics import squad_normal

_K1, _B = 1.2, 0.75  # as Lucene has them


def bm25(query: str, documents: Sequence[str]) -> list[float]:
    """Return Okapi BM25's score of each document for ``query`` (Robertson & Zaragoza 2009), in Lucene's form.

    Words after ``squad_normal``; their rarity is that among ``documents``.
    """
    words = [Counter(squad_normal(text).split()) for text in documents]
    mean = sum(each.total() for each in words) / len(words) or 1.0
    wanted = set(squad_normal(query).split())
    seen = {word: sum(word in each for each in words) for word in wanted}
    rare = {word: math.log(1 + (len(words) - n + 0.5) / (n + 0.5)) for word, n in seen.items()}

    def score(each: Counter[str]) -> float:
        long = _K1 * (1 - _B + _B * each.total() / mean)
        return sum(rare[word] * each[word] * (_K1 + 1) / (each[word] + long) for word in wanted)

    return [score(each) for each in words]


def picks(item: Choice, number: int) -> dict[str, int]:
    """Return what each rival picks; chance is drawn by the item's ``number``."""
    if len(item.options) == len(item.chunks):
        scores = bm25(item.name or item.question, item.chunks)
    else:  # options that are no chunks: the one whose words the text has most of, near those of the question
        scores = [max(bm25(f"{item.question} {option}", item.chunks)) for option in item.options]
    count = len(item.options)
    return {
        "random": Random(f"rival {number}").randrange(count),
        "first": 0,
        "words": max(range(count), key=scores.__getitem__),
    }
