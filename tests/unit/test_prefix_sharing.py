"""Branches in the memory store: what they share stays where it is and is read there, whatever else happens."""

from __future__ import annotations

import random

import pytest
from path_kv import nodes_are_true, same, truth

from nbkv.kv import Space
from nbkv.models.caches.branch import BranchCache
from nbkv.models.caches.growing import GrowingCache
from nbkv.stores import prefix_sharing
from nbkv.stores.memory import MemoryStore

SPACE = Space("model", "float32")


def take(store, ids, *, branches=True):
    branch_at = (lambda base: BranchCache(base, 2)) if branches else None
    return store.take(SPACE, ids, len(ids) - 1, GrowingCache, branch_at=branch_at)


def holds(lease, ids):
    buffer = lease.buffer
    return not buffer.length or same(buffer.read(0, buffer.length), truth(ids, 0, buffer.length))


def write(lease, ids):
    lease.buffer.write(lease.buffer.length, truth(ids, lease.buffer.length, len(ids)))


def run(store, ids):
    lease = take(store, ids)
    assert lease.buffer.length == lease.matched
    assert holds(lease, ids)
    write(lease, ids)
    assert holds(lease, ids)
    store.give(lease, ids)
    return lease


def everything_is_true(store, open_leases=()):
    nodes_are_true(store)
    written = {id(lease.buffer) for lease, _ in open_leases}
    for tree in store._trees.values():
        assert all(bool(node.leases) <= bool(open_leases) for node in tree.nodes())
    for buffer in (storage for storage in store._buffers if storage.in_buffer):
        assert buffer.leased == (id(buffer.buffer) in written)
        assert bool(buffer.read_end) <= bool(open_leases)
        assert bool(getattr(buffer.buffer, "pieces", ())) <= buffer.leased


def grown(draw, seen):
    begin = draw.choice(seen)
    cut = draw.randrange(len(begin) + 1)
    return (*begin[:cut], *(draw.randrange(3) for _ in range(draw.choice((2, 5, 30)))))


@pytest.mark.parametrize("limit", [2**40, 40_000, 0])
@pytest.mark.parametrize("part", [1, 3])
def test_random_walk_of_leases_side_by_side(monkeypatch, limit, part):
    monkeypatch.setattr(prefix_sharing, "PART", part)
    draw, store, seen, leases, branches = random.Random(limit + part), MemoryStore(limit=limit), [()], [], 0
    for step in range(500):
        if len(leases) < 4 and draw.random() < 0.5:
            ids = grown(draw, seen)
            lease = take(store, ids, branches=draw.random() < 0.9)
            assert lease.buffer.length == lease.matched
            branches += bool(lease.buffer.base)
            leases.append((lease, ids))
            seen.append(ids)
        elif leases:
            lease, ids = leases[draw.randrange(len(leases))]
            write(lease, ids[: draw.randrange(lease.buffer.length, len(ids) + 1)])
            if draw.random() < 0.7:
                leases.remove((lease, ids))
                full = lease.buffer.length
                store.give(lease, ids[:full]) if draw.random() < 0.8 else store.discard(lease)
        if draw.random() < 0.01:
            store.clear()
        assert all(holds(lease, ids) for lease, ids in leases)
        if step % 10 == 0:
            everything_is_true(store, leases)
    for lease, _ in leases:
        store.discard(lease)
    everything_is_true(store)
    assert branches > 3 or not limit
    assert store.nbytes <= limit


def prompts(k, prefix=1000, tail=1500):
    shared = tuple(range(prefix))
    return [(*shared, *range(10_000 * (1 + i), 10_000 * (1 + i) + tail)) for i in range(k)]


def test_long_branches_hold_their_prefix_once_and_copy_nothing():
    store, asked = MemoryStore(limit=2**40), prompts(6)
    leases = [run(store, ids) for ids in asked]

    assert [lease.matched for lease in leases] == [0, *[1000] * 5]
    assert not any(lease.copied for lease in leases)
    token = truth((0,), 0, 1).nbytes
    assert store.nbytes <= (1000 + 6 * 1500 + 6 * 64) * token
    assert sum(row["own_tokens"] for _, row in store.ls().iterrows()) == 6 * 1500
    assert store.figures()[0]["tokens"] == 1000 + 6 * 1500
    everything_is_true(store)


def test_each_branch_goes_on_growing_in_place():
    store, asked = MemoryStore(limit=2**40), prompts(3)
    buffers = [run(store, ids).buffer for ids in asked]
    for turn in range(3):
        asked = [(*ids, 5000 + turn, 6000 + turn) for ids in asked]
        again = [run(store, ids) for ids in asked]

        assert [lease.buffer for lease in again] == buffers
        assert not any(lease.copied for lease in again)
    everything_is_true(store)


@pytest.mark.parametrize("cut", [300, 1000, 1800])
def test_later_prompts_part_before_at_and_behind_a_branch_point(cut):
    store, asked = MemoryStore(limit=2**40), prompts(3)
    for ids in asked:
        run(store, ids)
    lease = run(store, (*asked[2][:cut], *range(90_000, 92_000)))

    assert lease.matched == cut
    everything_is_true(store)


def test_a_branch_of_a_branch_reads_two_pieces():
    store, asked = MemoryStore(limit=2**40), prompts(2, tail=3000)
    for ids in asked:
        run(store, ids)
    lease = take(store, (*asked[1][:1700], *range(90_000, 92_000)))

    assert lease.buffer.base == 1700
    assert [piece.length for piece in lease.buffer.pieces] == [1000, 700]
    store.discard(lease)
    everything_is_true(store)


def test_a_short_piece_behind_a_long_one_is_copied():
    store, asked = MemoryStore(limit=2**40), prompts(2, tail=3000)
    for ids in asked:
        run(store, ids)
    lease = run(store, (*asked[1][:1300], *range(90_000, 92_000)))

    assert lease.buffer.base == 1000
    assert lease.copied == 300
    everything_is_true(store)


def test_what_is_read_is_not_written_on():
    """A prompt that parts earlier must not take over the buffer in which a running branch still reads."""
    store, asked = MemoryStore(limit=2**40), prompts(2, tail=1200)
    run(store, asked[0])
    running = take(store, asked[1])
    assert running.buffer.base == 1000
    store.clear()
    other = take(store, (*asked[0][:600], *range(90_000, 90_100)))
    write(other, (*asked[0][:600], *range(90_000, 90_100)))

    assert holds(running, asked[1])
    write(running, asked[1])
    store.give(running, asked[1])
    assert not store.holds(SPACE, asked[1])  # it was cleared while the branch ran: its beginning is gone
    store.discard(other)
    everything_is_true(store)


def test_a_branch_point_need_not_be_where_nodes_end():
    """After the store was cleared another prompt may hold the prefix and more in one piece."""
    store, asked = MemoryStore(limit=2**40), prompts(2)
    run(store, asked[0])
    running = take(store, asked[1])
    store.clear()
    run(store, asked[1][:1400])
    write(running, asked[1])
    store.give(running, asked[1])
    again = take(store, (*asked[1], 1))

    assert again.buffer is running.buffer
    assert again.matched == 2500
    assert [piece.length for piece in again.buffer.pieces] == [1000]
    assert holds(again, asked[1])
    store.discard(again)
    everything_is_true(store)


def test_a_buffer_that_is_read_may_grow_at_its_end():
    store, asked = MemoryStore(limit=2**40), prompts(2)
    first = run(store, asked[0])
    running = take(store, asked[1])
    longer = (*asked[0], *range(3000))
    lease = run(store, longer)

    assert lease.buffer is first.buffer
    assert holds(running, asked[1])
    write(running, asked[1])
    store.give(running, asked[1])
    everything_is_true(store)


def test_nothing_that_a_running_branch_reads_is_evicted():
    store, asked = MemoryStore(limit=2**40), prompts(2)
    run(store, asked[0])
    running = take(store, asked[1])
    store.limit = 0
    run(store, (7, 8, 9))

    assert store.holds(SPACE, asked[1]) == 1000
    assert holds(running, asked[1])
    store.discard(running)
    assert not store.nbytes


def test_eviction_frees_a_branch_and_leaves_what_others_share():
    store, asked = MemoryStore(limit=2**40), prompts(3)
    for ids in asked:
        run(store, ids)
    store.limit = store.nbytes - 1
    run(store, asked[2])

    assert store.holds(SPACE, asked[0]) == 1000
    assert store.holds(SPACE, asked[1]) == store.holds(SPACE, asked[2]) == 2500
    everything_is_true(store)


def test_short_prefixes_are_copied():
    store, asked = MemoryStore(limit=2**40), prompts(2, prefix=prefix_sharing.PART)
    run(store, asked[0])
    lease = run(store, asked[1])

    assert lease.buffer.base == 0
    assert lease.copied == prefix_sharing.PART


def test_who_cannot_go_on_from_a_branch_gets_a_whole_buffer():
    store, asked = MemoryStore(limit=2**40), prompts(2)
    for ids in asked:
        run(store, ids)
    lease = take(store, (*asked[1], 1, 2), branches=False)

    assert lease.buffer.base == 0
    assert lease.copied == 2500
    assert holds(lease, asked[1])
    store.discard(lease)
    everything_is_true(store)


def test_reading_gives_what_a_branch_has():
    store, asked = MemoryStore(limit=2**40), prompts(2)
    for ids in asked:
        run(store, ids)
    with store.reading(SPACE, asked[1], 900) as pieces:
        assert [(at, kv.length) for at, kv in pieces] == [(900, 100), (1000, 1500)]
        assert all(same(kv, truth(asked[1], at, at + kv.length)) for at, kv in pieces)
