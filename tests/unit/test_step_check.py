"""What the checker of steps says of right, wrong, unfinished and too long answers; and the sums it is asked about."""

from __future__ import annotations

import pytest

import nbkv
from nbkv.errors import BadOption
from nbkv.tasks.steps.step_check import StepCheck
from nbkv.tasks.steps.sums import sums

ANSWER = "2 + 3 = 5\n5 + 4 = 9\nTotal: 9"


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("", 0.0),
        ("2 + 3 = 5\n", (1 + 1 / 3) / 2),
        ("2 + 3 = 5", (1 + 1 / 3) / 2),
        ("2 + 3 = 6\n", 0.0),
        ("2 + 3 = 5\n5 + 4 = 8", (1 / 2 + 1 / 3) / 2),
        ("2 + 3 = 6\n5 + 4 = 9", 0.0),  # right after a wrong one is luck
        (ANSWER, 1.0),
        (ANSWER + "\n\n", 1.0),
        (ANSWER + "\nTotal: 9", (3 / 4 + 1) / 2),
    ],
)
def test_an_answer_is_worth_what_is_right_of_it(text, worth):
    assert StepCheck(ANSWER)([text, ANSWER]) == [pytest.approx(worth), 1.0]
    assert StepCheck(ANSWER).is_right(text) == (worth == 1.0)


def test_steps_may_end_with_anything():
    check = StepCheck("tie 3 pound. pie 4 pound.", end=".")
    assert check.steps == ["tie 3 pound", "pie 4 pound"]
    assert check.is_right("tie 3  pound. pie 4 pound.")
    assert check.right_steps("tie 3 pound. pie 5 pound.") == 1


@pytest.mark.parametrize("answer", ["", "\n\n", "  \n "])
def test_an_answer_without_steps_is_refused(answer):
    with pytest.raises(BadOption, match="no steps"):
        StepCheck(answer)


def test_sums_are_right_and_the_same_for_a_seed():
    items = sums(seed=3, n=4, terms=4, largest=20, shots=2)
    assert items == sums(seed=3, n=6, terms=4, largest=20, shots=2)[:4]
    assert items != sums(seed=4, n=4, terms=4, largest=20, shots=2)
    for item in items:
        assert len(item.chunks) == 2
        *lines, total = item.answers[0].split("\n")
        assert len(lines) == 3
        for line in lines:
            one, _, other, _, total_so_far = line.split()
            assert int(one) + int(other) == int(total_so_far)
        assert total == f"Total: {lines[-1].rsplit(' ', 1)[1]}"
        assert StepCheck(item)(item.answers) == [1.0]
        asked = [int(word.strip(".,")) for word in item.question.split() if word.strip(".,\n").isdigit()]
        assert sum(asked) == int(total.rsplit(" ", 1)[1])


@pytest.mark.parametrize("given", [{"n": 0}, {"terms": 1}, {"largest": 1.5}, {"shots": 0}, {"terms": "3"}])
def test_sizes_that_no_sum_has_are_refused(given):
    with pytest.raises(BadOption, match=f"{next(iter(given))}="):
        nbkv.tasks.sums(**given)
