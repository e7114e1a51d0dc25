from __future__ import annotations

import random

from nbkv.stores.radix import RadixTree


def longest(known, ids):
    return max((n for other in known for n in range(len(ids) + 1) if other[:n] == ids[:n]), default=0)


def test_match_is_the_longest_known_prefix():
    draw, known = random.Random(0), []
    tree = RadixTree(lambda upper, lower: None)
    for _ in range(300):
        ids = tuple(draw.randrange(3) for _ in range(draw.randrange(1, 12)))
        path = tree.match(ids)

        assert sum(len(node.ids) for node in path) == longest(known, ids)
        assert tuple(i for node in path for i in node.ids) == ids[: longest(known, ids)]

        tree.insert(ids, object())
        known.append(ids)


def test_path_and_positions_stay_consistent_through_splits():
    tree = RadixTree(lambda upper, lower: None)
    tree.insert((1, 2, 3, 4, 5), "a")
    tree.insert((1, 2, 9), "b")
    tree.insert((1, 2, 3, 7), "c")

    for node in tree.nodes():
        assert node.path[-1] is node
        assert node.start == sum(len(above.ids) for above in node.path[:-1])
        assert node.parent.children[node.ids[0]] is node


def test_insert_of_what_is_known_adds_nothing():
    tree = RadixTree(lambda upper, lower: None)

    assert tree.insert((1, 2, 3), "a") is not None
    assert tree.insert((1, 2), "b") is None
    assert tree.insert((1, 2, 3), "c") is None


def test_split_tells_the_store_and_shares_the_payload():
    seen = []
    tree = RadixTree(lambda upper, lower: seen.append((upper.ids, lower.ids, upper.payload, lower.payload)))
    tree.insert((1, 2, 3), "a")
    tree.match((1, 2, 8))

    assert seen == [((1, 2), (3,), "a", "a")]


def test_leases_survive_a_split():
    tree = RadixTree(lambda upper, lower: None)
    node = tree.insert((1, 2, 3), "a")
    node.leases = 2
    tree.match((1,))

    assert [n.leases for n in node.path] == [2, 2]


def test_what_lies_between_two_places_is_split_off_at_both():
    tree = RadixTree(lambda upper, lower: None)
    tree.insert((1, 2, 3, 4, 5, 6), None).priority = 3

    assert [node.ids for node in tree.between((1, 2, 3, 4), 2)] == [(3, 4)]
    assert [node.ids for node in tree.match((1, 2, 3, 4, 5, 6))] == [(1, 2), (3, 4), (5, 6)]
    assert {node.priority for node in tree.nodes()} == {3}
    assert tree.between((1, 2), 2) == tree.between((9, 9), 0) == []
