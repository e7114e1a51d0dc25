"""Tokens of many sequences in one pass, against each sequence in a pass of its own."""

from __future__ import annotations

import pytest
import torch

from nbkv.models.caches.growing import GrowingCache
from nbkv.models.caches.packed import Bundle, Feed
from nbkv.models.probing.probe import adapt

SHARED = [7 * at % 190 for at in range(1, 24)]
OWN = [[11 * at % 190 for at in range(1, n + 1)] for n in (9, 1, 4, 20, 2)]


@pytest.fixture(params=["llama", "mistral", "gemma3", "olmoe", "qwen2_vl", "cohere2"])
def adapter(request, model_of):
    """Windows, two kinds of layers, experts, three axes, layers without rotation."""
    return adapt(model_of(request.param), request.param)


def bundle(adapter, cuts=((0, 23),)):
    cache = GrowingCache()
    adapter.prefill(SHARED, cache)
    return Bundle([cache.read(*cut) for cut in cuts], adapter.n_layers)


def alone(adapter, ids):
    return adapter.plain(adapter.tensor(ids))[-1]


def close(got, expected):
    return float((got - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("cuts", [((0, 23),), ((0, 5), (5, 6), (6, 23))])
def test_ragged_sequences_give_the_logits_they_have_alone(adapter, cuts):
    group, free = bundle(adapter, cuts), Bundle((), adapter.n_layers)
    feeds = [Feed(group, group.add(), own) for own in OWN] + [Feed(free, free.add(), own) for own in OWN[:2]]
    logits = adapter.packed(feeds)
    for feed, got in zip(feeds, logits, strict=True):
        before = SHARED if feed.bundle is group else []
        assert close(got, alone(adapter, [*before, *feed.ids]))
    assert group.lengths == [len(own) for own in OWN]
    assert free.lengths == [9, 1]


def test_sequences_come_go_and_run_at_their_own_pace(adapter):
    group, said = bundle(adapter), {}
    for own in OWN[:3]:
        said[group.add()] = list(own)
    # one token, a part of a prompt, and all of another in one pass
    steps = [{0: 2, 1: 1, 2: 3}, {0: 1, 2: 1}, {0: 6}]
    run = dict.fromkeys(said, 0)
    for step in steps:
        feeds = [Feed(group, slot, said[slot][run[slot] : run[slot] + n]) for slot, n in step.items()]
        logits = adapter.packed(feeds)
        for (slot, n), got in zip(step.items(), logits, strict=True):
            run[slot] += n
            assert close(got, alone(adapter, [*SHARED, *said[slot][: run[slot]]]))
    assert group.remove(0) == 2  # the last one moves to the free slot
    new = group.add()
    feeds = [Feed(group, 0, [5]), Feed(group, 1, [6, 7]), Feed(group, new, OWN[3])]
    expected = [[*OWN[2], 5], [*OWN[1], 6, 7], OWN[3]]
    for got, own in zip(adapter.packed(feeds), expected, strict=True):
        assert close(got, alone(adapter, [*SHARED, *own]))


def test_what_is_shared_is_not_copied_and_memory_follows_the_sequences(model_of):
    adapter = adapt(model_of("llama"), "llama")
    group = bundle(adapter)
    assert group.nbytes == 0
    assert group.shared_bytes == 23 * adapter.token_bytes
    adapter.packed([Feed(group, group.add(), own) for own in OWN])
    full = group.nbytes
    assert 5 * 20 * adapter.token_bytes <= full <= 5 * 48 * adapter.token_bytes
    for _ in range(4):
        group.remove(0)
    adapter.packed([Feed(group, 0, [3])])
    assert group.nbytes < full / 3


def test_a_pass_that_fails_leaves_no_sequence_longer(model_of):
    adapter = adapt(model_of("llama"), "llama")
    group = bundle(adapter)
    slot = group.add()
    adapter.packed([Feed(group, slot, OWN[0])])

    def fail(index, rows):
        if index == 1:
            raise ZeroDivisionError

    from nbkv.models.work import Work

    with pytest.raises(ZeroDivisionError):
        adapter.packed([Feed(group, slot, [3, 4])], Work(on_layer=fail))
    assert group.lengths == [9]
    assert close(adapter.packed([Feed(group, slot, [3, 4])])[0], alone(adapter, [*SHARED, *OWN[0], 3, 4]))
    assert torch.is_tensor(adapter.model.model.layers[0].self_attn.q_proj.weight)
