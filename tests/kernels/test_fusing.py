"""The rebuild of K/V by one kernel: what the layers' own code gives, wherever the kernel does what they do."""

from __future__ import annotations

import pytest
import torch
import transformers
from nbkv_kernels import runs_on
from torch import nn

import nbkv
from nbkv.families.residual.forms import parse
from nbkv.families.residual.planner import random_sequence
from nbkv.families.residual.sequence import BoundedSequence
from nbkv.models.passes import layer_calls
from nbkv.models.projection import kernel
from nbkv.models.projection.kernel import ANGLES, FusedProjection
from nbkv.models.projection.kernel_fit import ELSE, FEEDS, KEYS, NORM, fuse
from nbkv.models.projection.project import CapturingCache, learn, project_kv

YARN = {
    "rope_parameters": {
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128,
    }
}  # fmt: skip
# More K/V than input, so that no exact form is refused.
WIDE = {"num_key_value_heads": 4, "head_dim": 32}


@pytest.fixture(autouse=True)
def _kernels(monkeypatch):
    if not runs_on(torch.zeros(1)):
        pytest.skip("needs TRITON_INTERPRET=1")
    monkeypatch.setenv("NBKV_KERNELS", "triton")


@pytest.fixture
def launches(monkeypatch):
    """The shapes of what the kernel was asked to project."""
    asked, launch = [], kernel.project_kv

    def count(hidden, *more):
        asked.append(tuple(hidden.shape))
        launch(hidden, *more)

    monkeypatch.setattr(kernel, "project_kv", count)
    return asked


@pytest.fixture
def opened(make_model, tokenizer):
    """Sessions on models with norms and biases that are not 1 and 0."""
    sessions = []

    def open_(family, dtype=torch.float32, **changes):
        model = make_model(family, **changes)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(3)
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        sessions.append(nbkv.load(model.to(dtype), tokenizer=tokenizer, strategy="full"))
        return sessions[-1]

    yield open_
    for session in sessions:
        session.close()


def answers(session, words, spec):
    chat = session.chat()
    return [chat.send(words(12, seed=turn), max_new_tokens=3, strategy=spec) for turn in range(2)]


@pytest.mark.parametrize(
    ("family", "form"),
    [
        *((family, "layers") for family in ("llama", "qwen2", "qwen3", "gemma3")),
        *(("qwen3", form) for form in ("every(2)", "start(1)", "ids")),
    ],
)
def test_the_answers_are_fulls(opened, words, launches, family, form):
    session = opened(family, **WIDE)
    full, mine = (answers(session, words, spec) for spec in ("full", f"residual(keep=0.2, form='{form}')"))
    assert [result.token_ids for result in mine] == [result.token_ids for result in full]
    assert mine[-1].lineage == "exact"
    projected = {"layers": 4, "every(2)": 2, "start(1)": 1, "ids": 1}[form]
    assert launches
    layers = "layer" if projected == 1 else "layers"
    assert f"K/V of {projected} of {projected} projected {layers} by one kernel" in "".join(mine[-1].notes)


@pytest.mark.parametrize("form", ["ids", "start(1)", "every(2)", "layers"])
def test_logits_are_those_of_the_models_own_code(opened, launches, form):
    """Prompts of which all but a few tokens have become old, in several blocks."""
    adapter = opened("qwen3", **WIDE).adapter
    found = {}
    for kernels in ("torch", "triton"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NBKV_KERNELS", kernels)
            sequence = BoundedSequence(adapter, parse(form, 4), lambda _: 3, rows=20)
            found[kernels] = [sequence.forward(range(3, 60)), sequence.forward([7]), sequence.forward([9, 11])]
        assert bool(launches) == (kernels == "triton")
    assert torch.equal(found["torch"][0], found["triton"][0])
    for one, other in zip(*found.values(), strict=True):
        assert (one - other).abs().max() < 1e-5 * max(1.0, float(one.abs().max()))


FITTING = ["llama", "mistral", "qwen2", "qwen3", "mixtral", "gemma2", "gemma3", "granite"]


@pytest.mark.parametrize(("family", "changes"), [*((family, {}) for family in FITTING), ("llama", YARN)])
def test_keys_and_values_are_the_layers_own(opened, family, changes):
    adapter = opened(family, **changes).adapter
    calls, feeds = layer_calls(adapter, adapter.tensor(range(5, 42)), CapturingCache(), start=20), learn(adapter)
    hidden = torch.randn(calls[0].hidden.shape, generator=torch.Generator().manual_seed(1))
    for layer, call, reads, way in zip(adapter.walk.layers, calls, feeds, fuse(adapter, feeds), strict=True):
        own = project_kv(layer, call, hidden, reads)
        made = tuple(torch.full_like(side, torch.nan) for side in own)
        assert not way.project(call, hidden, made)
        for mine, its in zip(made, own, strict=True):
            assert (mine - its).abs().max() < 1e-5 * max(1.0, float(its.abs().max()))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_bfloat16_is_as_near_to_float32_as_the_layers_own_code(opened, monkeypatch, family):
    adapter, wide = opened(family, torch.bfloat16).adapter, opened(family).adapter
    wide.model.load_state_dict(adapter.model.state_dict())
    ids, feeds = range(5, 70), learn(adapter)
    calls, wider = (layer_calls(each, each.tensor(ids), CapturingCache(), start=0) for each in (adapter, wide))
    hidden = torch.randn(calls[0].hidden.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    ways = fuse(adapter, feeds)
    for index, (call, way) in enumerate(zip(calls, ways, strict=True)):
        own = project_kv(adapter.walk.layers[index], call, hidden, feeds[index])
        true = project_kv(wide.walk.layers[index], wider[index], hidden.float())
        # Triton's interpreter cuts off what does not fit into bfloat16, where a GPU rounds, and the reference does.
        for kernels, room in (("torch", 1.1), ("triton", 3.0)):
            monkeypatch.setenv("NBKV_KERNELS", kernels)
            made = tuple(torch.full_like(side, torch.nan) for side in own)
            assert not way.project(call, hidden, made)
            for mine, its, exact in zip(made, own, true, strict=True):
                assert (mine - exact).abs().mean() <= room * (its - exact).abs().mean()


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("olmo2", NORM),  # no norm before the projections
        ("olmoe", KEYS),  # its key norm goes over all heads
        ("cohere", ELSE),  # layer norm, and neighbours are pairs
        ("glm4", ANGLES),  # part of a head is rotary
        ("phi3", FEEDS),
        ("gpt2", FEEDS),
    ],
)
def test_other_layers_are_left_to_their_own_code(session_of, words, launches, family, why):
    session = session_of(family, strategy="full")
    ways = fuse(session.adapter, learn(session.adapter))
    assert all(way.why == why for way in ways)
    launches.clear()
    full, mine = (answers(session, words, spec) for spec in ("full", "residual(keep=0.2, form='ids')"))
    assert [result.token_ids for result in mine] == [result.token_ids for result in full]
    assert not launches
    assert f"K/V of 0 of 1 projected layer by one kernel, layer 3 by its own code: {why}" in "".join(mine[-1].notes)


def test_layers_are_judged_one_by_one(session_of):
    adapter = session_of("smollm3", strategy="full").adapter  # every other layer has no rotary embedding
    assert [isinstance(way, FusedProjection) for way in fuse(adapter, learn(adapter))] == [True, False, True, False]


class Clamped(transformers.models.llama.modeling_llama.LlamaRMSNorm):
    def forward(self, x):
        return super().forward(x).clamp(-4, 4)


class Scaled(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 1.5


def norm_with_another_eps(layer):
    layer.self_attn.k_norm.variance_epsilon = 1e-3


def norm_that_clamps(layer):
    layer.input_layernorm.__class__ = Clamped


def linear_of_another_class(layer):
    layer.self_attn.v_proj.__class__ = Scaled


def half_floats(layer):
    layer.half()


@pytest.mark.parametrize(
    "change", [norm_with_another_eps, norm_that_clamps, linear_of_another_class, half_floats], ids=lambda f: f.__name__
)
def test_what_is_out_of_the_ordinary_is_not_fused(opened, change):
    adapter = opened("qwen3").adapter
    change(adapter.model if change is half_floats else adapter.walk.layers[0])
    assert not isinstance(fuse(adapter, learn(adapter))[0], FusedProjection)


def test_somebody_who_listens_is_heard(opened, launches):
    adapter = opened("qwen3", **WIDE).adapter
    sequence = BoundedSequence(adapter, parse("layers", 4), lambda _: 1)
    sequence.forward(range(3, 40))
    heard = []
    handle = adapter.walk.layers[2].self_attn.register_forward_pre_hook(lambda *_: heard.append(1))
    sequence.restore()
    assert heard
    assert [bool(why) for why in sequence.own_code.values()] == [False, False, True, False]
    handle.remove()
    before = len(launches)
    heard.clear()
    sequence.restore()
    assert not heard
    assert len(launches) - before == 4 * 2  # two blocks


def test_weights_are_read_when_they_are_used(opened):
    adapter = opened("llama").adapter
    (call, *_), feeds = layer_calls(adapter, adapter.tensor(range(5, 12)), CapturingCache(), start=0), learn(adapter)
    way, hidden = fuse(adapter, feeds)[0], torch.randn(call.hidden.shape)
    layer = adapter.walk.layers[0]
    with torch.no_grad():
        layer.self_attn.v_proj.weight.mul_(2.0)
        layer.input_layernorm.weight.add_(0.5)
    own = project_kv(layer, call, hidden, feeds[0])
    made = tuple(torch.full_like(side, torch.nan) for side in own)
    assert not way.project(call, hidden, made)
    assert (made[1] - own[1]).abs().max() < 1e-5 * float(own[1].abs().max())
    assert fuse(adapter, learn(adapter))[0] is not way  # other weights: found out again


def test_nothing_is_made_beside_the_open_buffer(opened, monkeypatch, launches):
    """The planner restores in this way too, so what it measures is what the kernel takes."""
    adapter, peaks = opened("qwen3", **WIDE).adapter, {}
    for kernels in ("torch", "triton"):
        monkeypatch.setenv("NBKV_KERNELS", kernels)
        sequence = random_sequence(adapter, parse("layers", 4), 200)
        sequence.cache.peak = 0
        launches.clear()
        sequence.restore()
        peaks[kernels] = sequence.cache.peak
        assert len(launches) == (0 if kernels == "torch" else 4 * 7)  # blocks of 32 rows
        held = sequence.cache.nbytes + sequence.cache.beside()
    whole = 2 * 4 * 32 * 201 * 4  # K and V of a layer's 201 tokens
    assert peaks["torch"] > peaks["triton"]
    assert held + whole - 2 * 4 * 32 * 4 <= peaks["triton"] <= held + whole


def test_where_kernels_are_not_used_nothing_is_asked(session_of, monkeypatch):
    monkeypatch.setenv("NBKV_KERNELS", "torch")
    adapter = session_of("llama", strategy="full").adapter
    assert fuse(adapter, learn(adapter)) == []
