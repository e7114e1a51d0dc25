"""The tiered store: what memory lacks comes from tiers, whatever goes wrong there is a miss, and never wrong K/V."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest
from entries import SPACE, ids_of
from path_kv import same, truth

from nbkv.events import Bus, Stored, StoreFault, TierRead
from nbkv.kv import Space
from nbkv.models.caches.growing import GrowingCache
from nbkv.stores.memory import MemoryStore
from nbkv.stores.tiered import TieredStore
from nbkv.stores.tiers.disk import DiskTier
from nbkv.stores.tiers.entry import Entry
from nbkv.stores.tiers.head import Sealer
from nbkv.stores.tiers.host import HostTier
from nbkv.stores.writer import SharedWork


class Told(list):
    """What a bus has told."""

    def of(self, kind):
        return [event for event in self if isinstance(event, kind)]


def store_of(*tiers, limit=2**40, **options):
    bus, told = Bus(), Told()
    bus.add(told.append)
    return TieredStore(MemoryStore(limit, bus), tiers, bus, **options), told


def run(store, ids, *, answer=(), space=SPACE):
    """Act as a request does: take, check and compute what is missing, give; return how many tokens were found."""
    lease = store.take(space, ids, len(ids) - 1, GrowingCache)
    assert lease.buffer.length == lease.matched
    assert not lease.matched or same(lease.buffer.read(0, lease.matched), truth(ids, 0, lease.matched))
    whole = (*ids, *answer)
    lease.buffer.write(lease.matched, truth(whole, lease.matched, len(whole)))
    store.give(lease, whole)
    return lease.matched


def read(store, ids, start=0):
    """Return how many tokens are read from ``start`` on, all of them right and without a gap."""
    at = start
    with store.reading(SPACE, ids, start) as views:
        for begin, kv in views:
            assert begin == at
            assert same(kv, truth(ids, at, at + kv.length))
            at += kv.length
    return at


def test_a_second_process_finds_what_the_first_has_left(tmp_path):
    first, told = store_of(DiskTier(root=tmp_path))
    ids = ids_of(1, 300)
    assert run(first, ids, answer=ids_of(2, 20)) == 0
    first.close()
    assert [event.tokens for event in told.of(Stored)] == [320, 320]

    second, told = store_of(DiskTier(root=tmp_path))
    assert run(second, (*ids, *ids_of(2, 20), 7)) == 320
    assert [(event.tokens, event.tier) for event in told.of(TierRead)] == [(320, "disk")]
    assert run(second, (*ids, *ids_of(2, 20), 7)) == 320
    assert len(told.of(TierRead)) == 1  # by now memory has it
    assert [tier["hits"] for tier in second.figures()] == [1, 1]
    second.close()


@pytest.mark.parametrize("limit", [2**40, 20_000, 0])
@pytest.mark.parametrize("writes", ["through", "back"])
def test_random_traffic_never_gives_wrong_kv_and_survives_reopening(tmp_path, limit, writes):
    draw, seen = random.Random(limit), [()]
    for _ in range(2):
        store, told = store_of(
            DiskTier(root=tmp_path, limit=60_000, writes=writes), HostTier(limit=10_000), limit=limit
        )
        for step in range(24):
            begin = draw.choice(seen)
            cut = draw.randrange(len(begin) + 1)
            ids = (*begin[:cut], *(draw.randrange(4) for _ in range(draw.randrange(1, 150))))
            run(store, ids, answer=tuple(draw.randrange(4) for _ in range(draw.randrange(9))))
            if step % 7 == 0:
                store.flush()
                read(store, ids)
            seen.append(ids)
        store.close()
        assert not told.of(StoreFault)
    again, _ = store_of(DiskTier(root=tmp_path), limit=limit)
    assert max(again.holds(SPACE, ids) for ids in seen) > 0
    again.close()


def test_every_token_of_what_was_stored_is_found_across_seams(tmp_path):
    store, _ = store_of(DiskTier(root=tmp_path))
    chat = ()
    for turn, length in enumerate([30, 5, 100, 1, 64, 63, 200, 2]):
        chat += ids_of(turn, length)
        run(store, chat)
        store.flush()
    store.close()
    for end in (35, 36, 135, 136, 300, len(chat)):
        again, _ = store_of(DiskTier(root=tmp_path))
        assert again.holds(SPACE, chat[:end]) >= end - end % 64
        assert read(again, chat[:end]) >= end - end % 64
    assert read(again, chat) == len(chat)
    assert read(store_of(DiskTier(root=tmp_path))[0], chat, 100) == len(chat)


def test_whole_blocks_only_where_a_token_depends_on_its_block(tmp_path):
    space, ids = Space("model", "float32", block=8), ids_of(3, 100)
    store, _ = store_of(DiskTier(root=tmp_path))
    lease = store.take(space, ids, 96, GrowingCache)
    lease.buffer.write(0, truth(ids, 0, 100))
    store.give(lease, ids)
    store.close()
    again, _ = store_of(DiskTier(root=tmp_path))
    assert again.holds(space, ids) == 96
    assert again.holds(space, (*ids[:93], 5000)) == 88


@pytest.mark.parametrize("lineage", ["approx:cacheblend", "approx:prophet", "approx:full"])
def test_what_was_made_under_approximations_is_not_shared(tmp_path, lineage):
    store, _ = store_of(DiskTier(root=tmp_path))
    space = Space("model", "float32", lineage=lineage)
    run(store, ids_of(1), space=space)
    assert store.put(space, ids_of(2), 0, truth(ids_of(2), 0, 70)) == 70
    store.close()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_tenants_do_not_meet(tmp_path):
    store, _ = store_of(DiskTier(root=tmp_path))
    run(store, ids_of(1))
    store.close()
    again, _ = store_of(DiskTier(root=tmp_path))
    assert again.holds(Space("model", "float32", tenant="other"), ids_of(1)) == 0
    assert again.holds(SPACE, ids_of(1)) == 70


def test_a_faster_tier_keeps_what_a_slower_one_had(tmp_path):
    slow, fast = tmp_path / "slow", tmp_path / "fast"
    store, _ = store_of(DiskTier(root=slow))
    run(store, ids_of(1, 200))
    store.close()
    store, told = store_of(DiskTier("fast", root=fast), DiskTier("slow", root=slow))
    assert run(store, (*ids_of(1, 200), 3)) == 200
    store.close()
    assert [event.tier for event in told.of(TierRead)] == ["slow"]
    store, told = store_of(DiskTier("fast", root=fast), DiskTier("slow", root=slow))
    assert run(store, (*ids_of(1, 200), 3)) == 200
    assert {event.tier for event in told.of(TierRead)} == {"fast"}
    store.close()


def test_one_copy_a_layer_is_under_way_at_a_time(tmp_path, monkeypatch):
    """The first of four requests holds its layer until all four have asked for it."""
    store, _ = store_of(DiskTier(root=tmp_path))
    ids = ids_of(1, 200)
    run(store, ids)
    store.close()
    store, _ = store_of(DiskTier(root=tmp_path))
    layer, do, begun = Entry.layer, SharedWork.do, threading.Barrier(4)
    asked, under_way, most, lock, all_asked = [], Counter(), Counter(), threading.Lock(), threading.Event()

    def counted(work, name, load, use):
        with lock:
            asked.append(name)
            if len([each for each in asked if each[1] == 0]) == 4:
                all_asked.set()
        return do(work, name, load, use)

    def slow(entry, number, *into):
        with lock:
            under_way[number] += 1
            most[number] = max(most[number], under_way[number])
        all_asked.wait()
        try:
            return layer(entry, number, *into)
        finally:
            with lock:
                under_way[number] -= 1

    monkeypatch.setattr(SharedWork, "do", counted)
    monkeypatch.setattr(Entry, "layer", slow)

    def request():
        begun.wait()
        store.take(SPACE, (*ids, 1), 200, GrowingCache)

    threads = [threading.Thread(target=request) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most.values()) == {1}
    assert [lease.matched for lease in store.front._holdings] == [200] * 4


def damage(path, how, draw):
    raw = bytearray(path.read_bytes())
    if how == "cut":
        raw = raw[: draw.randrange(len(raw))]
    elif how == "flip":
        for _ in range(draw.choice([1, 1, 2, 9])):
            raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
    elif how == "longer":
        raw += draw.randbytes(draw.randrange(1, 99))
    elif how == "noise":
        raw = bytearray(draw.randbytes(len(raw)))
    elif how == "moved":
        at, size = draw.randrange(len(raw)), draw.randrange(1, 64)
        raw = raw[:at] + raw[at + size :] + raw[at : at + size]
    elif how == "length":
        raw[:8] = draw.choice([0, 1, 2**63, 2**26, len(raw)]).to_bytes(8, "little")
    path.write_bytes(raw)


@pytest.mark.parametrize("how", ["cut", "flip", "longer", "noise", "moved", "length"])
def test_a_thousand_damaged_files_are_misses(tmp_path, how):
    """Six ways to damage a file, 170 draws each; the swapped ones are below."""
    draw = random.Random(how)
    first, _ = store_of(DiskTier(root=tmp_path))
    ids = ids_of(1)
    run(first, ids)
    first.close()
    (path,) = tmp_path.rglob("*.safetensors")
    whole = path.read_bytes()
    tier = DiskTier(root=tmp_path)
    for _ in range(170):
        damage(path, how, draw)
        store, told = store_of(tier)
        before = path.read_bytes()
        found = read(store, ids)
        if before == whole:
            continue
        assert found == 0
        assert len(told.of(StoreFault)) == 1
        assert "damaged" in told.of(StoreFault)[0].why
        assert not path.exists()
        path.write_bytes(whole)
        tier.index.add(tier.get(next(iter([tier_key(path)]))).header, len(whole))
    assert tier.counts.faults >= 160


def tier_key(path):
    from nbkv.stores.tiers.key import EntryKey

    return EntryKey.read(path.name.removesuffix(".safetensors"))


def test_swapped_files_are_misses(tmp_path):
    first, _ = store_of(DiskTier(root=tmp_path))
    for number in range(6):
        run(first, ids_of(number))
    other = Space("another model", "float32")
    run(first, ids_of(1), space=other)
    first.close()
    paths = sorted(tmp_path.rglob("*.safetensors"))
    raw = [path.read_bytes() for path in paths]
    for path, swapped in zip(paths, raw[1:] + raw[:1], strict=True):
        path.write_bytes(swapped)
    store, told = store_of(DiskTier(root=tmp_path))
    assert [read(store, ids_of(number)) for number in range(6)] == [0] * 6
    assert store.holds(other, ids_of(1)) == 0
    assert len(told.of(StoreFault)) == 7


def test_an_entry_made_without_the_key_is_not_taken(tmp_path):
    poison, _ = store_of(DiskTier(root=tmp_path))
    run(poison, ids_of(1))
    poison.close()
    key = Sealer(b"ours")
    store, told = store_of(DiskTier(root=tmp_path, sealer=key), sealer=key)
    assert run(store, ids_of(1)) == 0
    assert "seal" in told.of(StoreFault)[0].why
    store.close()
    again, _ = store_of(DiskTier(root=tmp_path, sealer=key), sealer=key)
    assert read(again, ids_of(1)) == 70


FAILS = {
    "disk full": OSError(28, "No space left on device"),
    "permission lost": PermissionError(13, "Permission denied"),
    "disk gone": OSError(5, "Input/output error"),
    "memory out": MemoryError(),
    "torch's memory out": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
}


@pytest.mark.parametrize("fault", FAILS)
@pytest.mark.parametrize("where", ["get", "put", "find", "read"])
def test_a_tier_that_fails_is_a_miss_and_an_event(tmp_path, monkeypatch, where, fault):
    first, _ = store_of(DiskTier(root=tmp_path))
    run(first, ids_of(1))
    first.close()

    def fail(*_, **__):
        raise FAILS[fault]

    store, told = store_of(DiskTier(root=tmp_path))
    monkeypatch.setattr(f"nbkv.stores.tiers.disk.{'OpenFile.read' if where == 'read' else f'DiskTier.{where}'}", fail)
    assert run(store, ids_of(1)) in {0, 69}
    assert run(store, ids_of(2)) == 0
    assert run(store, (*ids_of(2), 5)) == 70  # memory serves on
    store.flush()
    assert told.of(StoreFault)
    assert store.figures()[1]["faults"] == len(told.of(StoreFault))
    monkeypatch.undo()
    store._below[0]._rests_until = 0.0
    assert run(store, (*ids_of(1), 5)) == 70
    store.close()


def test_a_tier_out_of_reach_is_left_alone_for_a_while(tmp_path, monkeypatch):
    calls, now = [], [0.0]

    def find(*_):
        calls.append(now[0])
        raise FAILS["disk gone"]

    store, told = store_of(DiskTier(root=tmp_path))
    store._below[0]._now = lambda: now[0]
    monkeypatch.setattr(DiskTier, "find", find)
    for now[0] in (0.0, 1.0, 4.9, 5.1, 6.0):
        store.holds(SPACE, ids_of(1))
    assert calls == [0.0, 5.1]
    assert len(told.of(StoreFault)) == 2


def test_memory_that_runs_out_in_the_buffer_is_a_miss_with_a_note(tmp_path, monkeypatch):
    first, _ = store_of(DiskTier(root=tmp_path))
    run(first, ids_of(1))
    first.close()
    store, _ = store_of(DiskTier(root=tmp_path))

    class Small(GrowingCache):
        def expect(self, start, like, need):
            super().expect(start, like, need)
            raise FAILS["torch's memory out"]

    lease = store.take(SPACE, (*ids_of(1), 4), 70, Small)
    assert (lease.matched, lease.buffer.length, lease.known) == (0, 0, 0)
    assert "no memory" in lease.notes[0]


def test_clear_frees_memory_and_leaves_what_others_use(tmp_path):
    store, _ = store_of(DiskTier(root=tmp_path))
    run(store, ids_of(1))
    store.flush()
    store.clear()
    assert store.nbytes == 0
    assert run(store, (*ids_of(1), 3)) == 70
    store.close()
