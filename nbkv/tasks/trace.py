"""Trace: words that have one value because each has that of the one before (RULER's variable tracking, section 3.2).

arXiv 2404.06654. The words are the bundled readers'; what is asked is for real models, the readers were not trained for
it.
"""

from random import Random
from typing import Final

from nbkv.errors import BadOption
from nbkv.tasks.items import Item
from nbkv.tasks.vocabulary import AMOUNTS, ITEMS
from nbkv.tasks.writer import Haystack, check_size

_GIVEN: Final = "The word {word} has the value {value}."
_PASSED: Final = "The word {word} has the same value that the word {before} has."
_ASKED: Final = "Which words have the value {value}?"


def trace(seed: int = 0, n: int = 64, chunks: int = 8, lines: int = 6, *, hops: int = 3, chains: int = 2) -> list[Item]:
    """``n`` questions for all words of a chain, in a text of ``chunks`` chunks of ``lines`` sentences.

    A chain gives a word a value, then ``hops`` times a new word the value of the one before, each link in a later
    chunk; ``chains`` of them with different values stand in the text, and the question names the value of one.
    ``answers`` are the chain's words in order; ``oracle[i]`` is the sentence that brings ``answers[i]``, ``giving``
    those of the links before it. ``kind`` is the number of hops (``3hop``), ``distance`` how many chunks the chain
    spans. Scored by ``recall``, RULER's string match on whole words.
    """
    check_size(n, chunks, lines)
    if not 1 <= hops < chunks:
        message = f"hops={hops}: from 1 to chunks - 1 = {chunks - 1}, since each link stands in another chunk"
        raise BadOption(message)
    if not 1 <= chains <= lines:
        message = f"chains={chains}: from 1 to lines = {lines}"
        raise BadOption(message)
    rng = Random(f"trace {seed}")
    return [_item(rng, chunks, lines, hops, chains) for _ in range(n)]


def _item(rng: Random, chunks: int, lines: int, hops: int, chains: int) -> Item:
    words = rng.sample(ITEMS, chains * (hops + 1))
    values = rng.sample(AMOUNTS, chains)
    lists = [words[at : at + hops + 1] for at in range(0, len(words), hops + 1)]
    free = {chunk: rng.sample(range(chunk * lines, (chunk + 1) * lines), lines) for chunk in range(chunks)}
    places = [[free[chunk].pop() for chunk in sorted(rng.sample(range(chunks), hops + 1))] for _ in lists]
    told: dict[int, str] = {}
    for chain, ats, value in zip(lists, places, values, strict=True):
        told[ats[0]] = _GIVEN.format(word=chain[0], value=value)
        told |= {
            at: _PASSED.format(word=word, before=before)
            for at, word, before in zip(ats[1:], chain[1:], chain[:-1], strict=True)
        }
    text = Haystack(rng, chunks, lines, told)
    ats = places[0]  # words, values and places are drawn by chance: the first chain is as good as any
    return Item(
        chunks=text.chunks,
        question=_ASKED.format(value=values[0]),
        answers=lists[0],
        kind=f"{hops}hop",
        oracle=[text.evidence(*ats[: hop + 1]) for hop in range(hops + 1)],
        distance=ats[-1] // lines - ats[0] // lines,
        metrics=("recall",),
    )
