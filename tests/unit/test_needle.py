from __future__ import annotations

import pytest

from nbkv.tasks import needle
from nbkv.tasks.metrics import METRICS

KINDS = {"single": (1, 1, 1), "multikey": (4, 1, 1), "multivalue": (2, 3, 1), "multiquery": (4, 2, 2)}


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_numbers_said_of_the_words_asked_for(kind):
    keys, values, queries = KINDS[kind]
    for item in needle(seed=1, n=10, keys=keys, values=values, queries=queries):
        text = "".join(item.chunks)
        assert item.kind == kind
        assert len(item.chunks) == 8
        assert text.count("magic numbers") == keys * values
        asked = item.question.removesuffix("?").split("for ")[1].replace(" and ", ", ").split(", ")
        assert len(asked) == queries
        said = [
            (word, text.index(f"for {word} is {answer}."), answer)
            for word, answers in zip(asked, grouped(item.answers, values), strict=True)
            for answer in answers
        ]
        assert said == sorted(said, key=lambda each: (asked.index(each[0]), each[1]))
        for (word, _, answer), evidence in zip(said, item.oracle, strict=True):
            (place,) = evidence.asked
            assert item.chunks[place.chunk][place.start : place.stop].endswith(f"for {word} is {answer}.")


def grouped(values, size):
    return [values[at : at + size] for at in range(0, len(values), size)]


def test_the_score_is_the_share_of_numbers_found():
    (item,) = needle(n=1, values=4)
    score = METRICS[item.metrics[0]]
    assert score(", ".join(item.answers), item.answers) == 1
    assert score(f"It is {item.answers[2]}.", item.answers) == 0.25
