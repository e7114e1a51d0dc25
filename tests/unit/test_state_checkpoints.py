"""State checkpoints in the memory store: found behind their tokens, true in all traffic, evicted by score."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from path_kv import same, truth

from nbkv.events import Bus, Evicted, Stored
from nbkv.kv import Space
from nbkv.models.caches.growing import GrowingCache
from nbkv.stores.memory import MemoryStore
from nbkv.stores.state_checkpoints import StateCheckpoint

SPACE = Space("model", "float32")


@dataclass(frozen=True)
class Told:
    """States that tell of which tokens they are."""

    ids: tuple[int, ...]
    nbytes: int = 1_000

    @property
    def at(self):
        return len(self.ids)


def at(*ids):
    return StateCheckpoint(Told(ids), flops=float(len(ids)))


def run(store, ids, *, ends=(), branch=False, states_from=0):
    """Act as a request does that clones its states at ``ends`` and, if asked to, where it parts from what is known."""
    lease = store.take(SPACE, ids, len(ids) - 1, GrowingCache, states_from=states_from)
    assert lease.buffer.length == lease.matched
    if lease.matched:
        assert lease.checkpoint.states.ids == tuple(ids[: lease.matched])
        assert same(lease.buffer.read(0, lease.matched), truth(ids, 0, lease.matched))
    lease.buffer.write(lease.matched, truth(ids, lease.matched, len(ids)))
    stops = [*ends, *([lease.branch] if branch else [])]
    store.give(lease, ids, [at(*ids[:stop]) for stop in stops if stop > lease.matched])
    return lease


@pytest.mark.parametrize("limit", [2**40, 12_000, 0])
def test_random_traffic_never_finds_wrong_states(limit):
    draw, store, seen = random.Random(limit), MemoryStore(limit=limit), [(1,)]
    found = 0
    for _ in range(300):
        begin = draw.choice(seen)
        cut = draw.randrange(len(begin) + 1)
        ids = (*begin[:cut], *(draw.randrange(4) for _ in range(draw.randrange(2, 9))))
        ends = [draw.randrange(1, len(ids)), len(ids)]
        found += bool(run(store, ids, ends=ends, branch=draw.random() < 0.5).matched)
        seen.append(ids)
        for tree in store._trees.values():
            for node in tree.nodes():
                ids = tuple(i for above in node.path for i in above.ids)
                found_there = store._checkpoints.of(node)
                assert found_there is None or found_there.states.ids == ids
        nodes = {node for tree in store._trees.values() for node in tree.nodes()}
        assert set(store._checkpoints._at) <= nodes
    assert store.nbytes <= max(limit, 0)
    assert bool(found) == bool(limit)


def test_a_request_goes_on_from_the_last_checkpoint_and_no_earlier_than_asked():
    store = MemoryStore(limit=2**40)
    run(store, tuple(range(10)), ends=[4, 8])

    assert run(store, (*range(7), 99)).matched == 4
    assert run(store, tuple(range(20))).matched == 8
    assert run(store, (*range(9), 98, 97, 96), states_from=9).matched == 0
    assert store.take(SPACE, (*range(9), 95), 9, GrowingCache).matched == 9  # K/V alone can be cut anywhere


def test_a_branch_point_is_told_and_reused_by_the_third():
    store = MemoryStore(limit=2**40)
    run(store, tuple(range(10)), ends=[9])
    second = run(store, (*range(6), 50, 51), branch=True)

    assert (second.matched, second.branch) == (0, 6)
    assert run(store, (*range(6), 60, 61)).matched == 6


def test_bytes_are_counted_in_events_and_tables():
    seen, bus = [], Bus()
    bus.add(seen.append)
    store = MemoryStore(limit=2**40, bus=bus)
    run(store, tuple(range(10)), ends=[5, 10])

    assert store.figures()[0]["checkpoints"] == 2
    assert store.figures()[0]["state_bytes"] == 2_000
    assert store.nbytes >= 2_000
    assert store.ls()["state_bytes"].tolist() == [2_000]
    assert [event.nbytes for event in seen if isinstance(event, Stored) and not event.tokens] == [1_000, 1_000]
    store.clear()
    assert store.figures()[0]["state_bytes"] == 0


def test_the_fewest_flops_saved_per_byte_are_evicted_first():
    seen, bus = [], Bus()
    store = MemoryStore(limit=2**40, bus=bus, alpha=100.0)
    long, short = tuple(range(100)), (200, *range(201, 205))
    run(store, long, ends=[50, 100])
    run(store, short, ends=[5])
    bus.add(seen.append)
    store.limit = store.nbytes - 1
    run(store, (300, 301))  # no checkpoint of its own: saves nothing, whatever its age

    gone = [event for event in seen if isinstance(event, Evicted)]
    assert [event.tokens for event in gone] == [2, 5]
    assert store.holds(SPACE, short) == 0
    assert store.holds(SPACE, long) == 100


def test_without_alpha_the_least_recently_used_is_evicted_first():
    store = MemoryStore(limit=2**40, alpha=0.0)
    run(store, tuple(range(100)), ends=[100])
    run(store, (200, 201, 202), ends=[3])
    store.limit = store.nbytes - 1
    run(store, (200, 201, 202, 203))

    assert store.holds(SPACE, tuple(range(100))) == 0
    assert store.holds(SPACE, (200, 201, 202)) == 3


def test_an_inner_checkpoint_is_evicted_and_its_tokens_stay():
    store = MemoryStore(limit=2**40)
    run(store, tuple(range(10)), ends=[2, 10])
    store.limit = store.nbytes - 1
    run(store, tuple(range(10)))

    assert store.figures()[0]["checkpoints"] == 1
    assert store.holds(SPACE, tuple(range(10))) == 10
    assert run(store, (*range(10), 11)).matched == 10
