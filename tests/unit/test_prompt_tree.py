"""The collapsed prefix tree of a batch, against every way there is to group its prompts."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from nbkv.families.batch.prompt_tree import common, shared_prefixes


def partitions(items: list[int]) -> Iterator[list[list[int]]]:
    if not items:
        yield []
        return
    first, *rest = items
    for found in partitions(rest):
        yield [[first], *found]
        for at in range(len(found)):
            yield [*found[:at], [first, *found[at]], *found[at + 1 :]]


def computed(prompts, groups):
    """Return how many tokens are run: each prefix once, and what of each prompt is behind it."""
    return sum(tokens + sum(len(prompts[at]) - tokens for at in members) for tokens, members in groups)


def least_of_all(prompts):
    def prefix(group):
        most = min(len(prompts[at]) for at in group) - 1
        return next((n for n in range(most) if len({prompts[at][n] for at in group}) > 1), most)

    ways = (
        [(prefix(group) if len(group) > 1 else 0, group) for group in way] for way in partitions([*range(len(prompts))])
    )
    return min(computed(prompts, way) for way in ways)


@pytest.mark.parametrize("seed", range(8))
def test_no_other_grouping_computes_less(seed):
    draw = random.Random(seed)
    for _ in range(25):
        prompts = [tuple(draw.randint(0, 1) for _ in range(draw.randint(1, 9))) for _ in range(draw.randint(1, 6))]
        groups = [(each.tokens, each.members) for each in shared_prefixes(prompts, [0] * len(prompts), 1)]
        assert sorted(at for _, members in groups for at in members) == [*range(len(prompts))]
        for tokens, members in groups:
            assert len({prompts[at][:tokens] for at in members}) == 1
            assert all(tokens < len(prompts[at]) for at in members), "the last token has to run"
        assert computed(prompts, groups) == least_of_all(prompts)


def test_two_levels_become_one():
    shelf, books = tuple(range(100)), [tuple(range(200 + 50 * book, 250 + 50 * book)) for book in range(2)]
    prompts = [(*shelf, *books[at % 2], 900 + at) for at in range(6)] + [(*shelf, 950)]
    found = {each.members: each.tokens for each in shared_prefixes(prompts, [0] * 7, 16)}
    assert found == {(0, 2, 4): 150, (1, 3, 5): 150, (6,): 100}, "what other groups begin with is stored by then"


@pytest.mark.parametrize(("least", "tokens"), [(1, 10), (10, 10), (11, 0)])
def test_short_prefixes_are_none(least, tokens):
    prompts = [(*range(10), 50), (*range(10), 60)]
    assert {each.tokens for each in shared_prefixes(prompts, [0, 0], least)} == {tokens}


def test_duplicates_share_all_but_the_token_that_runs():
    (group,) = shared_prefixes([tuple(range(40))] * 3, [0] * 3, 8)
    assert (group.tokens, group.members) == (39, (0, 1, 2))


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ([0, 0, 0], {(0, 1): 20, (2,): 0}),
        ([20, 0, 0], {(0, 1): 20, (2,): 0}),  # stored: the group has it for nothing
        ([0, 0, 12], {(0, 1): 20, (2,): 12}),  # one prompt goes on from what is stored of it alone
        ([25, 0, 0], {(0, 1): 20, (2,): 0}),  # a little more is no reason to leave the group
        ([60, 60, 0], {(0,): 60, (1,): 60, (2,): 0}),
    ],
)
def test_what_is_stored_counts(known, found):
    prompts = [(*range(20), *range(100, 150)), (*range(20), *range(200, 250)), tuple(range(300, 330))]
    assert {each.members: each.tokens for each in shared_prefixes(prompts, known, 8)} == found


def test_a_thousand_prompts_that_begin_each_other():
    prompts = [tuple(range(n)) for n in range(1, 400)]
    groups = shared_prefixes(prompts, [0] * len(prompts), 16)
    assert sorted(at for each in groups for at in each.members) == [*range(399)]


@pytest.mark.parametrize(("one", "other", "n"), [((1, 2), (1, 2, 3), 2), ((1, 2, 4), (1, 3, 4), 1), ((), (1,), 0)])
def test_common(one, other, n):
    assert common(one, other) == common(other, one) == n
