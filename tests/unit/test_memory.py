from __future__ import annotations

import random

import pytest
from path_kv import nodes_are_true, same, truth

from nbkv.events import Bus, Evicted
from nbkv.kv import Space
from nbkv.models.caches.growing import GrowingCache
from nbkv.stores.base import Keeping, Priority
from nbkv.stores.memory import MemoryStore

SPACE = Space("model", "float32")


def run(store, ids, *, answer=(), keep=True, priorities=()):
    """Act as a request does: take, compute what is missing, decode, give; return the lease."""
    lease = store.take(SPACE, ids, len(ids) - 1, GrowingCache)
    buffer = lease.buffer
    assert buffer.length == lease.matched
    assert not lease.matched or same(buffer.read(0, lease.matched), truth(ids, 0, lease.matched))
    whole = (*ids, *answer)
    lease.priorities = priorities
    buffer.write(lease.matched, truth(whole, lease.matched, len(whole)))
    if keep:
        store.give(lease, whole)
    else:
        store.discard(lease)
    return lease


def everything_is_true(store):
    nodes_are_true(store)
    assert not any(node.leases for tree in store._trees.values() for node in tree.nodes())
    for storage in store._buffers:
        assert not storage.leased
        stops = sorted(node.stop for node in storage.nodes)
        assert len(set(stops)) == len(stops)


@pytest.mark.parametrize("limit", [2**40, 6_000, 0])
def test_random_traffic_never_gives_wrong_kv(limit):
    draw, store, seen = random.Random(limit), MemoryStore(limit=limit), [()]
    for step in range(400):
        begin = draw.choice(seen)
        cut = draw.randrange(len(begin) + 1)
        ids = (*begin[:cut], *(draw.randrange(4) for _ in range(draw.randrange(1, 9))))
        answer = tuple(draw.randrange(4) for _ in range(draw.randrange(4)))
        run(store, ids, answer=answer, keep=draw.random() < 0.8)
        seen.append((*ids, *answer))
        if step % 10 == 0:
            everything_is_true(store)
    everything_is_true(store)
    assert store.nbytes <= max(limit, 0)


def accounts_are_right(store, leases):
    """Compare what is counted as it changes with what a look at everything says."""
    nodes = [node for tree in store._trees.values() for node in tree.nodes()]
    holdings = [store._holdings[lease] for lease in leases]
    storages = {node.payload for node in nodes} | {holding.buffer for holding in holdings}
    assert len(store._holdings) == len(leases)
    assert len(list(store._buffers)) == len(storages)
    assert set(store._buffers) == storages
    assert store.nbytes == sum(storage.nbytes for storage in storages)
    free = {node for node in nodes if not node.leases and not node.children}
    assert free <= store._leaves._waiting
    for node in nodes:
        assert node.leases == sum(node in holding.path[-1].path for holding in holdings if holding.path)


@pytest.mark.parametrize("limit", [2**40, 6_000, 0])
def test_accounts_are_right_after_every_step_of_overlapping_requests(limit):
    draw, store, seen, leases = random.Random(limit), MemoryStore(limit=limit), [()], []
    spaces = [SPACE, Space("model", "float32", tenant="b")]
    for _ in range(600):
        move = draw.random()
        if leases and move < 0.5:
            lease, ids = leases.pop(draw.randrange(len(leases)))
            if draw.random() < 0.8:
                store.give(lease, ids)
            else:
                store.discard(lease)
        elif len(leases) < 4 and move < 0.97:
            begin = draw.choice(seen)
            ids = (*begin[: draw.randrange(len(begin) + 1)], *(draw.randrange(4) for _ in range(draw.randrange(1, 9))))
            seen.append(ids)
            lease = store.take(draw.choice(spaces), ids, len(ids) - 1, GrowingCache)
            lease.buffer.write(lease.matched, truth(ids, lease.matched, len(ids)))
            leases.append((lease, ids))
        elif move > 0.99:
            store.clear()
            for lease, ids in leases:
                store.give(lease, ids)
            leases.clear()
        else:
            store.holds(draw.choice(spaces), draw.choice(seen))
        accounts_are_right(store, [lease for lease, _ in leases])


def test_every_eviction_is_of_the_least_recently_used_leaf(monkeypatch):
    draw, store, spaces = random.Random(1), MemoryStore(limit=12_000), [SPACE, Space("model", "float32", tenant="b")]
    gone, pop = [], store._leaves.pop

    def checked():
        free = [n for tree in store._trees.values() for n in tree.nodes() if not n.leases and not n.children]
        node = pop()
        assert node is min(free, key=lambda free: free.used)
        gone.append(node)
        return node

    monkeypatch.setattr(store._leaves, "pop", checked)
    for _ in range(300):
        ids = tuple(draw.randrange(3) for _ in range(draw.randrange(2, 12)))
        lease = store.take(draw.choice(spaces), ids, len(ids) - 1, GrowingCache)
        lease.buffer.write(lease.matched, truth(ids, lease.matched, len(ids)))
        store.give(lease, ids)
    assert len(gone) > 100
    assert len(store._leaves._heap) < 200


def test_a_node_split_under_a_lease_is_free_afterwards():
    store, ids = MemoryStore(limit=2**40), tuple(range(20))
    run(store, ids)
    lease = store.take(SPACE, (*ids, 99), 20, GrowingCache)
    assert store.holds(SPACE, ids[:5]) == 5
    store.discard(lease)
    store.limit = 0
    run(store, (7, 8, 9))
    assert store.holds(SPACE, ids) == store.nbytes == 0


def test_a_growing_chat_copies_nothing():
    store, ids = MemoryStore(limit=2**40), tuple(range(10))
    lease = run(store, ids, answer=(50, 51))
    buffer, where = lease.buffer, lease.buffer.layers[0].keys.data_ptr()
    for turn in range(3):
        ids = (*ids, 50 + 2 * turn, 51 + 2 * turn, 100 + turn)
        lease = run(store, ids, answer=(52 + 2 * turn, 53 + 2 * turn))

        assert lease.copied == 0
        assert lease.buffer is buffer
        assert lease.buffer.layers[0].keys.data_ptr() == where


def test_branches_hold_their_prefix_once():
    store, prefix = MemoryStore(limit=2**40), tuple(range(1000))
    run(store, (*prefix, 2000))
    alone = store.nbytes
    for branch in range(8):
        assert run(store, (*prefix, 3000 + branch, 1, 2)).matched == 1000

    assert store.nbytes < alone * 1.1


def test_limit_evicts_the_least_recently_used_leaf():
    store, gone = MemoryStore(limit=2**40, bus=Bus()), []
    for first in (1, 2, 3):
        run(store, (first, *range(100, 164)))
    run(store, (1, *range(100, 164)))
    store.limit = store.nbytes - 1
    store.bus.add(lambda event: gone.append(event) if isinstance(event, Evicted) else None)
    run(store, (1, *range(100, 164)))

    assert store.holds(SPACE, (1, *range(100, 164))) == 65
    assert store.holds(SPACE, (2, *range(100, 164))) == 0
    assert store.holds(SPACE, (3, *range(100, 164))) == 65
    assert store.counts.evictions == len(gone) == 1


def test_leased_nodes_are_not_evicted():
    store, ids = MemoryStore(limit=2**40), tuple(range(64))
    run(store, ids)
    lease = store.take(SPACE, (*ids, 99), 64, GrowingCache)
    store.limit = 0
    run(store, (7, 8, 9))

    assert same(lease.buffer.read(0, 64), truth(ids, 0, 64))
    assert store.holds(SPACE, ids) == 64


def test_two_leases_on_one_prefix_do_not_share_a_buffer():
    store, ids = MemoryStore(limit=2**40), tuple(range(20))
    run(store, ids)
    first = store.take(SPACE, (*ids, 1), 20, GrowingCache)
    second = store.take(SPACE, (*ids, 2), 20, GrowingCache)

    assert first.buffer is not second.buffer
    assert same(second.buffer.read(0, 20), truth(ids, 0, 20))


def test_spaces_do_not_see_each_other():
    store = MemoryStore(limit=2**40)
    run(store, (1, 2, 3))

    for other in (
        Space("other", "float32"),
        Space("model", "bfloat16"),
        Space("model", "float32", tenant="b"),
        Space("model", "float32", lineage="approx:x"),
    ):
        assert store.holds(other, (1, 2, 3)) == 0
    assert store.holds(SPACE, (1, 2, 3)) == 3


def test_clear_during_a_lease_leaves_the_request_whole():
    store = MemoryStore(limit=2**40)
    run(store, (1, 2, 3, 4))
    lease = store.take(SPACE, (1, 2, 3, 4, 5), 4, GrowingCache)
    store.clear()
    lease.buffer.write(4, truth((1, 2, 3, 4, 5), 4, 5))
    store.give(lease, (1, 2, 3, 4, 5))

    everything_is_true(store)
    assert store.holds(SPACE, (1, 2, 3, 4, 5)) == 5


def test_tables_say_what_is_there():
    store = MemoryStore(limit=2**40)
    run(store, (1, 2, 3, 4))
    run(store, (1, 2, 8))

    row = store.tiers.iloc[0]
    assert (row["tokens"], row["hits"], row["misses"]) == (5, 1, 1)
    assert row["bytes"] == store.nbytes
    assert sorted(store.ls()["tokens"]) == [3, 4]


@pytest.mark.parametrize("limit", [2**40, 6_000])
def test_what_is_put_is_as_what_a_request_leaves(limit):
    draw, store, seen = random.Random(limit), MemoryStore(limit=limit), [()]
    for step in range(150):
        begin = draw.choice(seen)
        ids = (*begin[: draw.randrange(len(begin) + 1)], *(draw.randrange(4) for _ in range(draw.randrange(1, 9))))
        start, known = draw.randrange(len(ids)), store.holds(SPACE, ids)
        new = store.put(SPACE, ids, start, truth(ids, start, len(ids)))
        assert new == (len(ids) - known if start <= known else 0)
        if step % 3 == 0:
            run(store, ids)
        seen.append(ids)
        assert store.nbytes <= limit
    everything_is_true(store)


def test_kv_of_a_lower_priority_is_evicted_before_what_was_used_longer_ago():
    store, system = MemoryStore(limit=2**40), (1, 2, 3)
    run(store, (*system, 4), answer=(5,))
    assert store.keep(SPACE, system, Keeping(priority=1)) == 3
    run(store, (8, 8, 8), answer=(7, 7, 7), priorities=(Priority(3, 6, -1), Priority(0, 9, -2)))
    assert store.runs(SPACE, (8, 8, 8, 7, 7, 7), 1) == [(3, -2), (6, -1)], "whoever came first gave its priority"
    assert store.runs(SPACE, (*system, 4, 5), 0) == [(3, 1), (5, 0)]
    gone = []
    store.on_evict = lambda space, ids, start, kv, priority: gone.append((tuple(ids[start:]), priority))
    store.limit = 0
    run(store, (6, 6), keep=False)
    assert gone == [((7, 7, 7), -1), ((8, 8, 8), -2), ((4, 5), 0), (system, 1)]
    everything_is_true(store)


def test_kv_that_goes_as_it_is_unpinned_does_not_come_up_again():
    store, ids = MemoryStore(limit=2**40), (1, 2, 3)
    run(store, ids)
    store.keep(SPACE, ids, Keeping(pinned=True))
    store.limit = 0
    store.keep(SPACE, ids, Keeping(priority=-1))
    run(store, (7, 7))
    assert (store.holds(SPACE, ids), store.nbytes) == (0, 0)
    assert store.counts.evictions == 2


def test_pinned_kv_is_not_evicted_until_it_is_unpinned():
    store, ids = MemoryStore(limit=2**40), (1, 2, 3, 4, 5)
    run(store, ids)
    assert store.keep(SPACE, ids, Keeping(pinned=True)) == 5
    assert store.keep(SPACE, (*ids, 9), Keeping(pinned=True)) == 5  # not all of it is known: nothing is pinned
    run(store, (1, 2, 8))  # splits what is pinned
    store.limit = 0
    run(store, (7, 7))
    assert store.holds(SPACE, ids) == 5
    assert store.holds(SPACE, (1, 2, 8)) == 2
    store.keep(SPACE, ids, Keeping())
    assert (store.holds(SPACE, ids), store.nbytes) == (0, 0)
    store.keep(SPACE, ids, Keeping())
