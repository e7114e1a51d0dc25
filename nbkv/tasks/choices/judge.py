"""Judge: statements from a real question's paragraphs, one of which answers it; a model picks among them."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

from nbkv.tasks.choices.choice import METRICS, Choice, check_options
from nbkv.tasks.files.hotpotqa import hotpotqa
from nbkv.tasks.items import Item
from nbkv.tasks.metrics import squad_normal

INSTRUCTION = "Statements:\n\n"
"""Stands before the statements."""
_MOST = 8
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_SHORT, _LONG = 40, 200  # characters of a statement


def judge(path: str | Path, *, n: int | None = None, seed: int = 0, options: int = 4) -> list[Choice]:
    """Return ``n`` questions (None: all that have enough statements) of HotpotQA's file at ``path`` as choices.

    A chunk is a candidate: a sentence of the question's paragraphs, and the model says which one answers the question
    by repeating it. The right one is a supporting sentence that holds the answer; the others are from paragraphs that
    do not support it, of each the sentence that shares most words with the question, so that words alone do not tell.
    Raises ``LoadError``, ``BadOption``.
    """
    count, found = check_options(options, _MOST), []
    for item in hotpotqa(path, seed=seed):
        right, others = _right(item), _others(item)
        if right is not None and len(others) >= count - 1:
            found.append(_choice(item, right, others[: count - 1], Random(f"judge {seed} {item.name}")))
    return found[:n]


def shared_words(first: str, second: str) -> int:
    """Return how many words two texts share, after ``squad_normal``."""
    return len({*squad_normal(first).split()} & {*squad_normal(second).split()})


def _right(item: Item) -> str | None:
    """Return the supporting sentence that holds the answer; None where there is none, or where it is yes or no."""
    answer = item.answers[0].lower()
    if answer in {"yes", "no"}:
        return None
    places = [place for evidence in item.oracle for place in evidence.asked]
    texts = [item.chunks[place.chunk][place.start : place.stop] for place in places]
    return next((text for text in texts if answer in text.lower() and len(text) <= _LONG), None)


def _others(item: Item) -> list[str]:
    """Return one sentence of each paragraph that supports nothing, those that share most words first."""
    found = []
    for at, chunk in enumerate(item.chunks):
        sentences = _SENTENCE.split(chunk.partition("\n")[2].strip())
        fitting = [text for text in sentences if _SHORT <= len(text) <= _LONG]
        wrong = [text for text in fitting if item.answers[0].lower() not in text.lower()]
        if at not in item.hops and wrong:
            found.append(max(wrong, key=lambda text: shared_words(item.question, text)))
    return sorted(found, key=lambda text: -shared_words(item.question, text))


def _choice(item: Item, right: str, others: list[str], rng: Random) -> Choice:
    statements = [*others, right]
    rng.shuffle(statements)
    return Choice(
        chunks=[f"- {text}\n" for text in statements],
        question=f"\nQuestion: {item.question}\nRepeat word for word the one statement that answers the question.",
        answers=[right],
        kind="judge",
        metrics=METRICS,
        instruction=INSTRUCTION,
        name=item.question,
        options=tuple(statements),
        right=statements.index(right),
    )
