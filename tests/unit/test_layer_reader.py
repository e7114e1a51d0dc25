"""Layers arrive while earlier ones run; none is used before it was checked, and faults end in the answer of full."""

from __future__ import annotations

import shutil
import threading
from types import SimpleNamespace

import pytest
import torch
from entries import entry, ids_of
from path_kv import same, truth
from redis_server import RedisServer
from waiting import PATIENCE_S

from nbkv.events import Bus, StoreFault, TierRead
from nbkv.kv import KV
from nbkv.models.caches.growing_layer import GrowingLayer
from nbkv.stores.reading.arriving import room_for
from nbkv.stores.reading.layer_reader import ArrivingSpan, LayerReader, LoadLost
from nbkv.stores.search import FoundSpan
from nbkv.stores.tiers.entry import Entry
from nbkv.stores.tiers.guard import GuardedTier
from nbkv.stores.tiers.head import Damaged
from nbkv.stores.tiers.host import HostTier
from nbkv.stores.writer import SharedWork

FAULTS = {
    "does not verify": Damaged("layer has changed since it was made"),
    "gone": OSError(5, "Input/output error"),
    "memory out": MemoryError(),
    "torch's memory out": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
}
STRATEGIES = ["prefix", "cacheblend(budget=1.0)", "epic"]


class Gate:
    """Has ``Entry.layer`` wait for ``open[layer]``.

    ``late`` are the layers that were waited for while closed by the thread that would have opened them.
    """

    def __init__(self, monkeypatch, n_layers):
        self.open, self.late, self.read = [threading.Event() for _ in range(n_layers)], [], []
        layer, arrives, opener = Entry.layer, LayerReader._arrives, threading.current_thread()

        def gated(entry, number, *into):
            assert self.open[number].wait(PATIENCE_S)
            self.read.append(number)
            return layer(entry, number, *into)

        def waits(reader, number, span):
            if not self.open[number].is_set() and threading.current_thread() is opener:
                self.late.append(number)
                self.open_all()
            return arrives(reader, number, span)

        monkeypatch.setattr(Entry, "layer", gated)
        monkeypatch.setattr(LayerReader, "_arrives", waits)

    def open_all(self):
        for each in self.open:
            each.set()


@pytest.fixture
def reader_of():
    told, opened = [], []

    def make(*parts):
        bus = Bus()
        bus.add(told.append)
        tier = GuardedTier(HostTier(), bus)
        found = [FoundSpan(tier, entry(ids[:stop], start), start, stop) for ids, start, stop in parts]
        spans = [ArrivingSpan(span, room_for(span, ["cpu"])) for span in found]
        opened.append(LayerReader(spans, SharedWork(), bus))
        return opened[-1], told

    yield make
    for reader in opened:
        reader.cancel()


def test_a_layer_is_there_before_the_next_one_is_read(monkeypatch, reader_of):
    gate, ids = Gate(monkeypatch, 2), ids_of(1, 100)
    reader, told = reader_of((ids, 0, 40), (ids, 40, 100))
    gate.open[0].set()
    reader.need(0)
    assert gate.read == [0, 0]
    for span, (start, stop) in zip(reader.spans, [(0, 40), (40, 100)], strict=True):
        assert torch.equal(span.into.keys[0], truth(ids, start, stop).keys[0])
    gate.open[1].set()
    reader.need(1)
    assert reader.finish() == 2
    assert all(same(span.into, truth(ids, *at)) for span, at in zip(reader.spans, [(0, 40), (40, 100)], strict=True))
    assert [(event.tokens, event.layers) for event in told] == [(40, 2), (60, 2)]
    assert not gate.late


def test_events_tell_how_many_layers_were_there_before_they_were_needed(monkeypatch, reader_of):
    reader, told = reader_of((ids_of(1), 0, 70))
    for read in reader._reads.values():
        read.result()
    for layer in (0, 1, 0):
        reader.need(layer)
    reader.finish()
    assert [(event.ahead, event.waited) for event in told] == [(2, 0.0)]


def test_events_tell_how_long_layers_were_waited_for(monkeypatch, reader_of):
    """Each layer is read once it is waited for, and takes a second of a clock that nothing else moves."""
    now, waited_for, layer, arrival = (
        [0.0],
        [threading.Semaphore(0) for _ in range(2)],
        Entry.layer,
        GuardedTier.arrival,
    )
    monkeypatch.setattr("nbkv.stores.reading.layer_reader.time", SimpleNamespace(perf_counter=lambda: now[0]))
    order = iter(waited_for)

    def read(entry, number, *into):
        assert waited_for[number].acquire(timeout=PATIENCE_S)
        now[0] += 1
        return layer(entry, number, *into)

    def wait(tier, result, key):
        next(order).release()
        return arrival(tier, result, key)

    monkeypatch.setattr(Entry, "layer", read)
    monkeypatch.setattr(GuardedTier, "arrival", wait)
    reader, told = reader_of((ids_of(2), 0, 70))
    reader.need(0)
    reader.finish()
    assert [(event.ahead, event.waited, event.seconds) for event in told] == [(0, 2.0, 2.0)]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_layer_with_a_fault_is_lost_and_told_once(monkeypatch, reader_of, fault, layer):
    true, ids = Entry.layer, ids_of(1, 100)

    def broken(entry, number, *into):
        if number == layer and entry.header.start == 40:
            raise FAULTS[fault]
        return true(entry, number, *into)

    monkeypatch.setattr(Entry, "layer", broken)
    reader, told = reader_of((ids, 0, 40), (ids, 40, 70), (ids, 70, 100))
    for _ in range(2):
        with pytest.raises(LoadLost):
            reader.need(layer)
    assert reader.finish() == 1
    assert [type(event) for event in told] == [StoreFault, TierRead]
    assert same(reader.spans[0].into, truth(ids, 0, 40))


@pytest.mark.parametrize("shape", [(1, 70, 3), (2, 70, 4), (2, 69, 3)])
def test_a_layer_of_another_shape_than_said_is_damaged(monkeypatch, reader_of, shape):
    monkeypatch.setattr(Entry, "layer", lambda *_: (torch.zeros(shape), torch.zeros(shape)))
    reader, told = reader_of((ids_of(1), 0, 70))
    assert reader.finish() == 0
    assert "damaged" in told[0].why


def test_what_is_closed_early_writes_no_more(monkeypatch, reader_of):
    gate = Gate(monkeypatch, 2)
    reader, told = reader_of((ids_of(1), 0, 70))
    gate.open[0].set()
    reader.need(0)
    cancel = reader.cancel
    reader.cancel = lambda: gate.open_all() or cancel()  # the second layer comes while the reader is being closed
    assert reader.close() == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nbkv-read")]
    assert not told
    assert reader.close() == 0


def test_nothing_to_read_is_nothing_to_wait_for(reader_of):
    reader, _ = reader_of()
    reader.need(0)
    assert reader.finish() == 0


def test_memory_for_a_span_has_its_shapes():
    found = FoundSpan(GuardedTier(HostTier(), Bus()), entry(ids_of(1), form="int8"), 10, 30)
    room = room_for(found, ["cpu"])
    assert isinstance(room, KV)
    assert {tuple(side.shape) for side in (*room.keys, *room.values)} == {(2, 20, 3)}
    assert {side.dtype for side in (*room.keys, *room.values)} == {torch.float32}


# in sessions


def answered(session, prompt, **options):
    told = []
    hear = told.append
    session.events.add(hear)
    result = session.generate(prompt, max_new_tokens=4, **options)
    session.events.drop(hear)
    full = session.generate(prompt, strategy="full", max_new_tokens=4)
    assert result.token_ids == full.token_ids
    return result, told


@pytest.fixture
def known(session_of, words, tmp_path):
    """A session of which only the tier still holds a prompt and a chunk, and the prompts that use them."""

    def make(family="llama", spec="disk:{}"):
        spec = f"memory+{spec.replace('{}', str(tmp_path))}"
        session = session_of(family, store=spec)
        session.generate(words(150), max_new_tokens=1)
        chunk = session.chunk(words(90, 1), name="a")
        session.store.flush()
        session.store.clear()
        return session, words(150), [words(5, 3), chunk, words(9, 4)]

    return make


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_a_layer_is_read_while_the_one_before_it_runs(known, monkeypatch, strategy, family):
    session, prompt, chunks = known(family)
    n_layers = session.adapter.n_layers
    gate, ran = Gate(monkeypatch, n_layers), []
    gate.open[0].set()
    update = GrowingLayer.update

    def running(layer, keys, *args, **options):
        given = update(layer, keys, *args, **options)
        ran.append(keys.shape[-2])
        if len(ran) < n_layers:
            gate.open[len(ran)].set()  # only now may the next layer be read
        return given

    monkeypatch.setattr(GrowingLayer, "update", running)
    result = session.generate(prompt if strategy == "prefix" else chunks, strategy=strategy, max_new_tokens=1)
    assert gate.read
    assert not gate.late
    assert len(ran) >= n_layers
    assert result.tokens.reused + result.tokens.recomputed > 80


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_mid_load_ends_in_the_answer_of_full(known, monkeypatch, strategy, layer, fault):
    session, prompt, chunks = known()
    whole = {"epic": "epic(first_k=90)"}.get(strategy, strategy)
    true = Entry.layer

    def broken(entry, number, *into):
        if number == layer:
            raise FAULTS[fault]
        return true(entry, number, *into)

    monkeypatch.setattr(Entry, "layer", broken)
    result, told = answered(session, prompt if strategy == "prefix" else chunks, strategy=whole)
    assert [event for event in told if isinstance(event, StoreFault)]
    assert session.store.figures()[1]["faults"] >= 1
    assert any("did not arrive whole" in note for note in result.notes)
    assert result.tokens.prompt == result.tokens.fresh + result.tokens.recomputed + result.tokens.reused
    if strategy == "prefix":
        assert result.tokens.reused == 0
    monkeypatch.undo()
    session.store._below[0]._rests_until = 0.0
    answered(session, prompt if strategy == "prefix" else chunks, strategy=whole)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_request_stopped_in_mid_load_leaves_nothing_behind(known, words, strategy):
    session, prompt, chunks = known()
    prompt = f"{prompt} {words(9, 4)}" if strategy == "prefix" else chunks

    def stop(event):
        if type(event).__name__ == "Layer" and event.index == 0:
            session.stop()

    session.events.add(stop)
    assert session.generate(prompt, strategy=strategy, max_new_tokens=4).finish_reason == "interrupted"
    session.events.drop(stop)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nbkv-read")]
    assert not session.store.front._holdings
    answered(session, prompt, strategy={"epic": "epic(first_k=90)"}.get(strategy, strategy))


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_redis_killed_in_mid_load(known, monkeypatch, tmp_path, strategy):
    server = RedisServer(tmp_path).start()
    try:
        session, prompt, chunks = known(spec=server.store)
        monkeypatch.setattr("nbkv.stores.tiers.redis._AHEAD", 1)
        true = Entry.layer

        def killing(entry, number, *into):
            if number == 1:
                server.kill()
            return true(entry, number, *into)

        monkeypatch.setattr(Entry, "layer", killing)
        whole = {"epic": "epic(first_k=90)"}.get(strategy, strategy)
        result, told = answered(session, prompt if strategy == "prefix" else chunks, strategy=whole)
        assert any("Redis" in event.why for event in told if isinstance(event, StoreFault))
        assert any("did not arrive whole" in note for note in result.notes)
    finally:
        server.kill()
