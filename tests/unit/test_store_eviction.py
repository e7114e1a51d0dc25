"""What is evicted next: leaves by recency, and the score where there are state checkpoints."""

from __future__ import annotations

import pytest

from nbkv.stores.eviction import EvictionCandidate, LRULeaves, lowest_score, lowest_scored
from nbkv.stores.radix import RadixTree
from nbkv.stores.state_checkpoints import StateCheckpoint, StateCheckpoints


@pytest.fixture
def tree():
    return RadixTree(lambda upper, lower: None)


class States:
    """States of one byte after so many tokens."""

    nbytes = 1

    def __init__(self, at):
        self.at = at


class NoBytes:
    """A payload whose tokens take no bytes."""

    nbytes = 0

    def read(self, start, stop):
        return self


def leaves_of(tree, *prompts):
    leaves, nodes = LRULeaves(), [tree.insert(ids, NoBytes()) for ids in prompts]
    for node in nodes:
        leaves.add(node)
    return leaves, nodes


def test_a_leaf_that_was_used_again_comes_up_later(tree):
    leaves, (one, two, three) = leaves_of(tree, (1, 1), (2, 2), (3, 3))
    tree.match((1, 1))

    assert [leaves.pop() for _ in range(4)] == [two, three, one, None]


def test_leases_and_children_keep_a_node_from_coming_up(tree):
    leaves, (leased, parent, free) = leaves_of(tree, (1, 1), (2, 2), (3, 3))
    leased.leases += 1
    leaves.add(tree.insert((2, 2, 3), NoBytes()))

    assert leaves.pop() is free
    assert leaves.pop() is parent.children[3]
    assert leaves.pop() is None
    leased.leases -= 1
    leaves.add(leased)
    leaves.add(leased)
    assert [leaves.pop(), leaves.pop()] == [leased, None]


def test_what_left_the_tree_does_not_come_up_and_its_entry_is_freed(tree):
    leaves, nodes = leaves_of(tree, *((i, i) for i in range(500)))
    for node in nodes[:-1]:
        leaves.discard(node)

    assert len(leaves._heap) < 100
    assert [leaves.pop(), leaves.pop()] == [nodes[-1], None]


def test_a_leaf_or_the_checkpoint_of_an_inner_node_may_be_evicted(tree):
    checkpoints, upper = StateCheckpoints(), tree.insert((1, 2), NoBytes())
    inner, leaf = upper, tree.insert((1, 2, 3), NoBytes())
    checkpoints.put(inner, StateCheckpoint(States(2), flops=2.0))

    assert lowest_scored([inner, leaf], checkpoints, 100.0) is leaf
    leaf.leases += 1
    assert lowest_scored([inner, leaf], checkpoints, 100.0) is inner
    checkpoints.drop(inner)
    assert lowest_scored([inner, leaf], checkpoints, 100.0) is None


def test_a_branch_point_keeps_its_checkpoint(tree):
    checkpoints, inner = StateCheckpoints(), tree.insert((1, 2), NoBytes())
    checkpoints.put(inner, StateCheckpoint(States(2), flops=0.0))
    leaves = [tree.insert((1, 2, last), NoBytes()) for last in (3, 4)]

    assert lowest_scored([inner, *leaves], checkpoints, 0.0) is leaves[0]
    for leaf in leaves:
        leaf.leases += 1
    assert lowest_scored([inner, *leaves], checkpoints, 0.0) is None


def test_the_score_is_recency_and_flops_saved():
    old_and_good, new_and_poor = EvictionCandidate(1, 10.0), EvictionCandidate(2, 1.0)

    assert lowest_score([old_and_good, new_and_poor], 0.0) == 0
    assert lowest_score([old_and_good, new_and_poor], 2.0) == 1
    assert lowest_score([EvictionCandidate(3, 0.0), EvictionCandidate(2, 0.0)], 1.0) == 1


def test_leaves_of_a_lower_priority_come_up_first_also_when_it_was_changed(tree):
    leaves, (one, two, three, four) = leaves_of(tree, (1, 1), (2, 2), (3, 3), (4, 4))
    for node, priority in ((one, 1), (three, -1), (four, -2), (four, 0)):
        node.priority = priority
        leaves.discard(node)
        leaves.add(node)

    assert [leaves.pop() for _ in range(5)] == [three, two, four, one, None]


def test_with_checkpoints_the_lowest_priority_goes_before_the_lowest_score(tree):
    checkpoints, (_, kept, least) = (
        StateCheckpoints(),
        [tree.insert(ids, NoBytes()) for ids in ((1, 1), (2, 2), (3, 3))],
    )
    for node in (kept, least):
        checkpoints.put(node, StateCheckpoint(States(2), 100.0))
    assert lowest_scored(tree.nodes(), checkpoints, 1.0) not in (kept, least)
    least.priority = -1
    assert lowest_scored(tree.nodes(), checkpoints, 1.0) is least
