"""How much tensor memory a blended prefill needs at its worst moment: what full needs, and one layer's K/V.

A layer's K/V is placed before the layer runs, or a layer before that, while full has none of it yet: that is the one
layer more.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import weakref
from concurrent.futures import Future

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import nbkv
from nbkv.context import Request
from nbkv.families.blend import assemble, layerwise
from nbkv.families.blend.base import Blend
from nbkv.models.attention import weights
from nbkv.registry import strategies as registry
from nbkv.strategy import parse

NAMES = [
    name
    for name in registry.names()
    if issubclass(registry.get(name), Blend) and "memory" not in registry.get(name).contract_exempt
]
BUDGETED = [name for name in NAMES if any(field.name == "budget" for field in dataclasses.fields(registry.get(name)))]
SHAPE = {"num_hidden_layers": 4, "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 4096}
FAMILIES = {"llama": SHAPE, **dict.fromkeys(["mistral", "gemma3"], SHAPE | {"sliding_window": 256})}
ROW_BYTES = 128  # of a row's id and position, the edges of what it sees, and what a method notes of it


class Allocated(TorchDispatchMode):
    """Counts the bytes of tensors made within the block for as long as they live; what kernels hide is not seen."""

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0
        self.sizes = {}  # of every storage that was made, by the shape it was made with
        self._known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = func(*args, **(kwargs or {}))
        old = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for made in tree_leaves(given):
            if isinstance(made, torch.Tensor) and made.untyped_storage()._cdata not in old | self._known:
                self._note(made)
        return given

    def _note(self, made):
        storage = made.untyped_storage()
        where, nbytes = storage._cdata, storage.nbytes()
        self._known.add(where)
        self.alive += nbytes
        self.peak = max(self.peak, self.alive)
        shape = tuple(made.shape)
        self.sizes[shape] = max(nbytes, self.sizes.get(shape, 0))
        weakref.finalize(storage, self._gone, where, nbytes).atexit = False

    def _gone(self, where, nbytes):
        self._known.discard(where)
        self.alive -= nbytes


class AtOnce:
    """Runs what it is given right away: a thread of its own would not be seen, and a layer ahead is the worst case."""

    def __init__(self, *_, **__):
        pass

    def submit(self, work, *args):
        done = Future()
        done.set_result(work(*args))
        return done

    def shutdown(self, **_):
        pass


def measured(session, prompt, strategy):
    """Return what a prefill of ``prompt`` under ``strategy`` allocated."""
    ctx, request = session._open().for_request(), Request(prompt, 1, keep=False)
    with Allocated() as allocated:
        prefilled = strategy.prefill(request, ctx)
    strategy.commit(prefilled, prompt.ids, request, ctx)
    return allocated


@pytest.fixture(params=FAMILIES)
def read(request, make_model, make_tokenizer, words, monkeypatch):
    """A session, and a prompt of 2,171 tokens whose chunks the session's store holds."""
    monkeypatch.setattr(
        assemble, "LayerwisePlacement", layerwise.AheadPlacement
    )  # as on a GPU: a layer more than on a CPU at times
    monkeypatch.setattr(layerwise, "ThreadPoolExecutor", AtOnce)
    with nbkv.load(make_model(request.param, **FAMILIES[request.param]), tokenizer=make_tokenizer()) as session:
        chunks = [session.chunk(words(700, seed=i), name=str(i)) for i in range(3)]
        yield session, session._prompt([words(40, seed=8), *chunks, words(30, seed=9)])


def every():
    """Return each strategy as it is by default, and where it has a budget also at the full one."""
    full = [dataclasses.replace(parse(name), budget=1.0) for name in BUDGETED]
    return {strategy.spec: strategy for strategy in [*map(parse, NAMES), *full]}


def test_the_peak_is_that_of_full_and_one_layer_at_most(read):
    session, prompt = read
    layers, positions = session.adapter.n_layers, ROW_BYTES * len(prompt.ids)
    layer = session.adapter.token_bytes * len(prompt.ids) / layers
    full = measured(session, prompt, parse("full")).peak
    peaks = {spec: measured(session, prompt, strategy).peak for spec, strategy in every().items()}
    assert min(full, *peaks.values()) > layers * layer  # the K/V of all layers are there in the end
    assert not {spec: (peak - full) / layer for spec, peak in peaks.items() if peak > full + layer + positions}


@pytest.mark.parametrize("read", ["llama", "gemma3"], indirect=True)
def test_masks_and_weights_are_bounded_whatever_the_prompt(read, monkeypatch):
    session, prompt = read
    rows = importlib.import_module("nbkv_kernels.row_attention")
    monkeypatch.setattr(rows, "_MASK", rows._MASK // 64)
    monkeypatch.setattr(weights, "_MOST", weights._MOST // 64)
    bound, n = 2**18, len(prompt.ids)  # a 64th of the entries of 64 MiB in float32
    assert rows._MASK == weights._MOST == bound < n * n / 16
    made = {spec: measured(session, prompt, strategy).sizes for spec, strategy in every().items()}
    over = {spec: [s for s in sizes if s and s[-1] > 2 * SHAPE["head_dim"] * 4] for spec, sizes in made.items()}
    assert all(over.values())  # what has a number for each of many keys
    assert not {spec: shapes for spec, shapes in over.items() if max(map(math.prod, shapes)) > bound}


@pytest.mark.parametrize("read", ["llama"], indirect=True)
def test_a_mask_that_is_made_is_seen(read, monkeypatch):
    session, prompt = read
    n = len(prompt.ids)
    monkeypatch.setattr(
        session.adapter, "capabilities", dataclasses.replace(session.adapter.capabilities, ranges=False)
    )
    masked = measured(session, prompt, dataclasses.replace(parse(BUDGETED[0]), budget=1.0))
    assert max(math.prod(shape) for shape in masked.sizes if shape[-1:] == (n,)) > n * n / 2
