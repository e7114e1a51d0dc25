"""How the width of a search is shared out, by hand-made trees; ETS's program against all subsets; clusters; rewards."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from nbkv.errors import BadOption, NbkvError
from nbkv.families.search.clusters import clusters
from nbkv.families.search.methods import Beam, Dvts, Rebase, balanced
from nbkv.families.search.program import Weights, kept
from nbkv.families.search.rewards import embedded, scored
from nbkv.families.search.tree import SearchNode
from nbkv.strategies.ets import EfficientTreeSearch


def leaf(number, reward, parent=None, *, nbytes=10, first=None, embedding=None):
    depth = 1 if parent is None else parent.depth + 1
    first = number if first is None else first
    return SearchNode(number, parent, depth, first, reward=reward, nbytes=nbytes, embedding=embedding)


def leaves(*rewards):
    return [leaf(number, reward) for number, reward in enumerate(rewards)]


# rebase


@pytest.mark.parametrize("width", [1, 2, 7, 16, 64])
@pytest.mark.parametrize("rewards", [[0.5], [0.1, 0.9], [0.3] * 5, [1.0, 0.0, 0.5, 0.5], [-3, 40, 2]])
def test_counts_add_up_and_follow_the_rewards(rewards, width):
    counts = balanced(rewards, width, 0.2)
    assert sum(counts) == width
    assert all(
        counts[a] >= counts[b] for a in range(len(rewards)) for b in range(len(rewards)) if rewards[a] > rewards[b]
    )


def test_counts_are_those_of_the_paper():
    # 16 exp(r / T) / sum, the best rounded up, the rest of the width shared out among the rest
    weights = [math.exp(r / 0.2) for r in (0.9, 0.8, 0.5)]
    first = math.ceil(16 * weights[0] / sum(weights))
    second = math.ceil((16 - first) * weights[1] / sum(weights[1:]))
    assert balanced([0.5, 0.9, 0.8], 16, 0.2) == [16 - first - second, first, second]


@pytest.mark.parametrize("width", [0, -2])
def test_no_width_is_no_children(width):
    assert balanced([0.1, 0.2], width, 0.2) == [0, 0]


def test_equal_rewards_share_equally_though_sums_are_rounded():
    for n in (3, 7, 16, 49):
        assert balanced([0.1] * n, 2 * n, 0.2) == [2] * n


@pytest.mark.parametrize("method", [Rebase(), Beam(), Dvts(), EfficientTreeSearch(lambda_d=0)])
def test_ended_answers_take_their_part_of_the_width(method):
    given = method.shares(leaves(0.5, 0.6, 0.7), 16, [leaf(9, 1.0, first=9)] * 6)
    assert 0 < sum(given) <= 10
    assert sum(method.shares(leaves(0.5), 1, [leaf(9, 1.0, first=0)])) == 0


# beam, dvts


@pytest.mark.parametrize(
    ("keep", "expected"), [(None, [4, 0, 4, 4, 4]), (1, [0, 0, 16, 0, 0]), (3, [5, 0, 6, 5, 0]), (9, [3, 3, 4, 3, 3])]
)
def test_a_beam_keeps_the_best_equally(keep, expected):
    assert Beam(keep).shares(leaves(0.5, 0.1, 0.9, 0.5, 0.2), 16, []) == expected


def test_a_subtree_keeps_its_best_and_no_other():
    firsts = [leaf(number, 0.1 * (number % 4), first=number) for number in range(16)]
    shares = Dvts().shares(firsts, 16, [])
    assert [at for at, share in enumerate(shares) if share] == [3, 7, 11, 15]
    assert sum(shares) == 16
    below = [leaf(20 + at, reward, firsts[3], first=3) for at, reward in enumerate((0.1, 0.2))] + [
        leaf(30, 0.0, firsts[7], first=7)
    ]
    assert Dvts().shares(below, 16, [leaf(40, 1.0, first=2), leaf(41, 1.0, first=3)]) == [0, 2, 4]
    assert Dvts(2).shares(below, 16, []) == [0, 8, 0]


@pytest.mark.parametrize("method", [Rebase(), Beam(), Dvts(), EfficientTreeSearch()])
def test_the_first_step_is_given_all_of_the_width(method):
    assert method.shares([SearchNode(0, reward=0.0)], 16, []) == [16]


# ets


def best_by_hand(nodes, gains, costs, groups, how):
    """All subsets, one after another."""
    total = sum(costs[node.number] for node in {n.number: n for leaf in nodes for n in leaf.path()}.values())
    worth = {}
    for size in range(1, len(nodes) + 1):
        for some in itertools.combinations(range(len(nodes)), size):
            used = {node.number for at in some for node in nodes[at].path()}
            covered = len({groups[at] for at in some}) / (max(groups) + 1)
            gain = sum(gains[at] for at in some) / sum(gains)
            worth[some] = gain - how.lambda_b * sum(costs[number] for number in used) / total + how.lambda_d * covered
    return worth


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("lambda_b", "lambda_d"), [(1.0, 1.5), (3.0, 0.0), (2.0, 0.4), (0.0, 1.0)])
def test_the_program_finds_the_best_of_all_subsets(seed, lambda_b, lambda_d):
    rng = np.random.default_rng(seed)
    inner = [leaf(100 + at, 0.5, nbytes=int(rng.integers(1, 50))) for at in range(3)]
    inner += [leaf(110 + at, 0.5, inner[at % 3], nbytes=int(rng.integers(1, 50))) for at in range(3)]
    nodes = [leaf(at, 0.5, inner[int(rng.integers(6))], nbytes=int(rng.integers(1, 50))) for at in range(8)]
    costs = {node.number: float(node.nbytes) for each in nodes for node in each.path()}
    gains = [float(each) for each in rng.integers(1, 6, 8)]
    groups = clusters_of(rng.integers(0, 3, 8))
    how = Weights(lambda_b, lambda_d)
    worth = best_by_hand(nodes, gains, costs, groups, how)
    found = tuple(at for at, keep in enumerate(kept(nodes, gains, costs, groups, how)) if keep)
    assert worth[found] == pytest.approx(max(worth.values()), abs=1e-6)


def clusters_of(drawn):
    known = {}
    return [known.setdefault(int(each), len(known)) for each in drawn]


def test_shared_ancestors_are_kept_and_costs_are_bytes():
    near, far = leaf(10, 0.5, nbytes=100), leaf(11, 0.5, nbytes=100)
    three = [leaf(1, 0.5, near), leaf(2, 0.5, near), leaf(3, 0.45, far)]
    shares = EfficientTreeSearch(lambda_b=2.0, lambda_d=0).shares(three, 16, [])
    assert shares[2] == 0
    assert sum(shares) == 16
    far.nbytes = near.nbytes = 1
    three[0].nbytes = three[1].nbytes = 100  # now its the leaves that cost
    assert EfficientTreeSearch(lambda_b=2.0, lambda_d=0).shares(three, 16, [])[2] > 0
    assert EfficientTreeSearch(lambda_b=2.0, lambda_d=0, cost="nodes").shares(three, 16, [])[2] == 0


def test_diversity_keeps_one_of_each_meaning():
    meant = [np.eye(8, dtype=np.float32)[at] for at in (0, 0, 0, 1, 2)]
    five = [
        leaf(at, reward, embedding=each)
        for at, (reward, each) in enumerate(zip((0.9, 0.9, 0.9, 0.4, 0.4), meant, strict=True))
    ]
    alike = EfficientTreeSearch(lambda_b=4.0, lambda_d=0).shares(five, 16, [])
    diverse = EfficientTreeSearch(lambda_b=4.0, lambda_d=3.0).shares(five, 16, [])
    assert alike[3] == alike[4] == 0
    assert diverse[3] > 0
    assert diverse[4] > 0
    assert sum(share > 0 for share in diverse[:3]) == 1


@pytest.mark.parametrize(
    "given",
    [
        {"lambda_b": -1},
        {"lambda_d": "x"},
        {"temperature": 0},
        {"cost": "tokens"},
        {"distance": 3},
        {"lambda_b": float("inf")},
    ],
)
def test_bad_options_of_ets(given):
    with pytest.raises(BadOption, match=f"{next(iter(given))}="):
        EfficientTreeSearch(**given)


@pytest.mark.parametrize(
    ("kind", "value"), [(Rebase, 0), (Rebase, "a"), (Rebase, float("nan")), (Beam, 0), (Beam, 1.5), (Dvts, True)]
)
def test_bad_options_of_the_others(kind, value):
    with pytest.raises(BadOption, match="is not accepted"):
        kind(value)


# clusters


@pytest.mark.parametrize("distance", [0.05, 0.3, 0.9])
def test_equal_steps_are_one_cluster_and_opposite_ones_are_not(distance):
    one, other = np.array([1.0, 0.2, 0, 0]), np.array([0, 0, 1.0, 0.3])
    common = np.full(4, 50.0)  # what all states have in common hides how they differ
    assert clusters([common + one, common + other, common + one], distance) == [0, 1, 0]


def test_clusters_of_one_and_of_all_the_same():
    assert clusters([np.ones(3, dtype=np.float32)], 0.05) == [0]
    assert clusters([np.ones(3, dtype=np.float32)] * 5, 0.05) == [0] * 5


def test_a_wide_cut_makes_one_cluster():
    drawn = list(np.random.default_rng(0).normal(size=(7, 16)).astype(np.float32))
    assert len({*clusters(drawn, 2.0)}) == 1
    assert len({*clusters(drawn, 0.01)}) == 7


# rewards


def test_rewards_are_asked_for_at_once():
    asked = []

    def reward(texts):
        asked.append(texts)
        return np.arange(len(texts))

    assert scored(reward, {7: "a", 9: "b"}) == {7: 0.0, 9: 1.0}
    assert asked == [["a", "b"]]


@pytest.mark.parametrize("given", [float("nan"), float("inf"), "0.5", None, True])
def test_a_branch_whose_reward_is_no_number_fails_alone(given):
    found = scored(lambda texts: [given if text == "b" else 0.5 for text in texts], {1: "a", 2: "b", 3: "c"})
    assert (found[1], found[3]) == (0.5, 0.5)
    assert isinstance(found[2], NbkvError)
    assert "branch 2" in str(found[2])


def test_a_reward_that_raises_costs_the_branch_it_raises_for():
    found = scored(lambda texts: [1 / len(text) for text in texts], {1: "ab", 2: "", 3: "abcd"})
    assert (found[1], found[3]) == (0.5, 0.25)
    assert "branch 2: reward ZeroDivisionError" in str(found[2])


@pytest.mark.parametrize("given", [[], [1.0, 2.0, 3.0], 0.5, "ab", {"a": 1}])
def test_a_reward_of_the_wrong_length_fails_everywhere_and_says_so(given):
    found = scored(lambda texts: given, {1: "a", 2: "b"})
    assert all(f"branch {number}: reward gave" in str(error) for number, error in found.items())


@pytest.mark.parametrize("given", [[1.0], [[1.0]], [[1.0], [float("nan")]], [[], []], "x"])
def test_embeddings_are_vectors_one_a_text(given):
    with pytest.raises(NbkvError, match="embedding"):
        embedded(lambda texts: given, ["a", "b"])
    assert np.array_equal(embedded(lambda texts: [[1, 2], [3, 4]], ["a", "b"])[1], [3, 4])
