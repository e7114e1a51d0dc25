from __future__ import annotations

import threading

import pytest
import torch
from waiting import PATIENCE_S

from nbkv.families.blend.layerwise import AheadPlacement, LayerwisePlacement, PlacedKV
from nbkv.kv import KV
from nbkv.models.caches.growing import GrowingCache
from nbkv.rope import HALVES, Rope, Rotation

LAYERS = 5


@pytest.fixture
def kv():
    draw = torch.Generator().manual_seed(0)
    sides = [tuple(torch.randn(2, 6, 8, generator=draw) for _ in range(LAYERS)) for _ in range(2)]
    return KV(*sides)


@pytest.fixture
def rope():
    return Rope((Rotation(torch.tensor([1.0, 0.1, 0.01, 0.001]), HALVES, 0),) * (LAYERS - 1) + (None,))


@pytest.mark.parametrize("kind", [LayerwisePlacement, AheadPlacement])
def test_every_layer_is_as_if_placed_at_once(kv, rope, kind):
    cache = GrowingCache()
    placing = kind(cache, rope, 30)
    placing.add(PlacedKV(kv, 3, 20))
    placing.add(PlacedKV(kv[0:4], 0, 0))
    placing.begin()
    for layer in range(LAYERS):
        placing.need(layer)
        keys, values = cache.layers[layer].keys[0], cache.layers[layer].values[0]
        moved = rope.move(kv, torch.arange(6) + 3, torch.arange(6) + 20)

        assert cache.layers[layer].length == 30
        assert torch.equal(keys[:, 20:26], moved.keys[layer])
        assert torch.equal(values[:, 20:26], kv.values[layer])
        assert torch.equal(keys[:, :4], kv.keys[layer][:, :4])
        assert not keys[:, 4:20].any()
        assert not values[:, 26:].any()


def test_one_layer_is_placed_ahead_and_no_more(kv, rope):
    placing, placed = AheadPlacement(GrowingCache(), rope, 30, [PlacedKV(kv, 0, 4)]), []
    place = placing._place
    placing._place = lambda layer: (place(layer), placed.append(layer))
    placing.begin()
    assert placed == [0]
    placing.need(0)
    placing._ahead[1].result()
    assert placed == [0, 1]
    placing.need(1)
    placing.need(0)
    placing._ahead[2].result()
    assert placed == [0, 1, 2]
    placing.close()


def test_without_a_thread_no_layer_is_placed_ahead(kv, rope):
    cache = GrowingCache()
    placing = LayerwisePlacement(cache, rope, 30, [PlacedKV(kv, 0, 4)])
    placing.begin()
    placing.need(2)
    placing.need(1)
    assert [layer.length for layer in cache.layers] == [30, 30, 30, 0, 0]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nbkv-place")]


@pytest.mark.parametrize("kind", [LayerwisePlacement, AheadPlacement])
@pytest.mark.parametrize("ends", ["last layer", "close"])
def test_stores_and_the_thread_are_let_go(kv, rope, ends, kind):
    placing, gone = kind(GrowingCache(), rope, 30, [PlacedKV(kv, 0, 4)]), []
    placing.views.callback(gone.append, True)
    placing.begin()
    if ends == "close":
        placing.need(0)
        placing.close()
    else:
        for layer in range(LAYERS):
            placing.need(layer)

    assert gone == [True]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nbkv-place")]


@pytest.mark.parametrize("kind", [LayerwisePlacement, AheadPlacement])
def test_nothing_to_place_is_nothing_to_wait_for(rope, kind):
    cache = GrowingCache()
    placing = kind(cache, rope, 30)
    placing.begin()
    placing.need(0)

    assert cache.layers == []


def test_a_failure_in_the_thread_is_raised_where_the_layer_is_needed(kv, rope, monkeypatch):
    placing = AheadPlacement(GrowingCache(), rope, 30, [PlacedKV(kv, 0, 4)])
    placing.begin()

    def broken(_layer):
        raise ZeroDivisionError

    monkeypatch.setattr(placing, "_place", broken)
    placing.need(0)
    with pytest.raises(ZeroDivisionError):
        placing.need(1)
    placing.close()


def test_another_thread_may_use_the_store_after_a_request_failed(session_of, words, monkeypatch):
    session = session_of("llama", strategy="cacheblend")
    one = session.chunk(words(20, seed=1), name="one")
    with monkeypatch.context() as patched:
        patched.setattr(session.adapter.model.model.layers[1], "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            session.generate([words(3), one, words(4, seed=2)], max_new_tokens=2)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(session.store.figures()))
    thread.start()
    thread.join(PATIENCE_S)

    assert seen
