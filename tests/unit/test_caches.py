"""What every cache answers, whoever made it: how rows attend, what the model is given, and how many bytes are held."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from nbkv.models.attention.positions import PassAttention
from nbkv.models.caches.branch import BranchCache
from nbkv.models.caches.evicting import EvictingCache
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.caches.restoring import RestoringCache
from nbkv.models.caches.token_log import TokenLog
from nbkv.models.input_embeddings import embeddings_work
from nbkv.models.probing.eviction import why_not
from nbkv.models.probing.probe import adapt

N = 12


@pytest.fixture(scope="module")
def adapter(model_of):
    return adapt(model_of("llama"), "llama")


@pytest.fixture
def ids(adapter):
    return adapter.tensor(range(3, 3 + N))


def test_bytes_are_those_of_the_tokens_held_not_of_the_room_behind_them(adapter, ids):
    roomy = GrowingCache(1000)
    for cache in (roomy, adapter.family_cache(), EvictingCache(adapter.n_layers)):
        adapter.forward(ids, cache, start=0)
        assert cache.held_bytes() == N * adapter.token_bytes, cache.kind
        assert cache.restorable_bytes() is None
    assert roomy.nbytes > roomy.held_bytes()


def test_a_branch_counts_what_it_shares(adapter, ids):
    trunk, branch = GrowingCache(), BranchCache(8, adapter.n_layers)
    adapter.forward(ids[:8], trunk, start=0)
    branch.share([trunk.read(0, 8)])
    adapter.forward(ids[8:], branch, start=8)

    assert branch.held_bytes() == N * adapter.token_bytes
    assert branch.base == 8
    assert trunk.base == 0
    assert not trunk.pieces


def test_a_restoring_cache_tells_what_others_are_restored_from(adapter, ids):
    cache = RestoringCache(adapter.n_layers, lambda _total: 3)
    cache.beside = lambda: 40
    adapter.forward(ids, cache, start=0)

    assert cache.held_bytes() == 3 * adapter.token_bytes
    assert cache.restorable_bytes() == 40
    assert cache.peak_bytes() > 3 * adapter.token_bytes


def test_a_log_of_tokens_has_no_kv_and_runs_all_of_them_again(adapter, ids):
    log = TokenLog()
    adapter.forward(ids[:5], log, start=0)
    got = adapter.forward(ids[5:], log, start=5, keep=N)

    assert got.shape[0] == N
    assert log.held_bytes() == 0
    assert log.peak_bytes() is None
    with pytest.raises(TypeError, match="TokenLog does not hold K/V by position"):
        log.read(0, 3)


def test_a_cache_that_cannot_be_cut_says_so(adapter):
    with pytest.raises(TypeError, match="DynamicCache cannot be cut back to 3 tokens"):
        adapter.family_cache().truncate(3)


def test_a_pass_without_blocks_is_left_to_the_model(adapter):
    assert isinstance(adapter.attention, PassAttention)
    rows = torch.arange(4, 8)
    with GrowingCache().attending(rows, 8, adapter.attention) as mask:
        assert mask is None
    with adapter.family_cache().attending(rows, 8, adapter.attention) as mask:
        assert mask is None


def test_what_is_known_of_a_model_does_not_keep_it(make_model):
    adapter = adapt(make_model("llama"), "llama")
    assert not why_not(adapter)
    assert embeddings_work(adapter)
    gone = weakref.ref(adapter.model)
    del adapter
    gc.collect()

    assert gone() is None
