"""States of recurrent layers at rest: what a second session goes on from is proved, and else computed again."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from shrinking import families, remembering, small_model
from survey import tokenizer

import nbkv
from nbkv.events import StoreFault
from nbkv.models.caches.recurrent import StateCache
from nbkv.models.caches.states import LayerStates
from nbkv.stores import tiered
from nbkv.stores.snapshots.resting_states import RestingStates
from nbkv.stores.state_checkpoints import StateCheckpoint
from nbkv.stores.tiers.disk import DiskTier
from nbkv.stores.tiers.key import EntryKey

# transformers' own warnings about what is no business of ours
pytestmark = pytest.mark.filterwarnings("ignore")

LAYERS = "bamba falcon_h1 kimi_linear lfm2 mamba2 nemotron_h qwen3_next zamba2 falcon_mamba jamba".split()
OWN_OBJECT = "rwkv xlstm".split()
SAMPLE = ["falcon_h1", "mamba2", "qwen3_next"]  # attention beside a recurrence, none at all, and layers of both kinds
N = 100


@pytest.fixture(scope="module")
def model_named():
    models = {}

    def made(name):
        if name not in families():
            pytest.skip("this transformers does not have it")
        if name not in models:
            models[name] = remembering(small_model(name))
        return models[name]

    return made


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    return str(tmp_path_factory.mktemp("remembered"))


@pytest.fixture
def session_with(tmp_path, monkeypatch, verdicts):
    monkeypatch.setenv("NBKV_CACHE", verdicts)  # what these models are is found out once
    opened = []

    def open_session(model, store=""):
        opened.append(nbkv.load(model, tokenizer=tokenizer(), store=store or f"memory+disk:{tmp_path}/kv"))
        opened[-1].told = []
        opened[-1].events.add(opened[-1].told.append)
        return opened[-1]

    yield open_session
    for session in opened:
        session.close()


def ids_of(n, seed=0):
    draw = random.Random(seed)
    return [draw.randrange(3, 180) for _ in range(n)]


def text_of(ids):
    return " ".join(f"w{number - 3}" for number in ids)


def answers(session, ids):
    """Ask what the tokenizer makes ``ids`` of; the answer is that of full."""
    result = session.generate(text_of(ids), max_new_tokens=4)
    assert list(result.prompt_ids) == list(ids)
    assert result.token_ids == session.generate(text_of(ids), strategy="full", max_new_tokens=4).token_ids
    return result


def faults(session):
    return [event for event in session.told if isinstance(event, StoreFault)]


@pytest.mark.parametrize("name", LAYERS)
def test_a_second_session_goes_on_from_the_states_of_the_first(model_named, session_with, name):
    model, ids = model_named(name), ids_of(N)
    first = session_with(model)
    assert answers(first, ids).tokens.reused == 0
    first.close()
    second = session_with(model)
    result = answers(second, [*ids[:-1], *ids_of(30, 2)])
    assert result.tokens.reused == N - 1
    assert any("proved by a golden row" in note for note in result.notes)
    assert answers(second, [*ids, *ids_of(9, 1)]).tokens.reused >= N - 1
    assert not faults(second)


@pytest.mark.parametrize("name", OWN_OBJECT)
def test_states_in_an_object_of_the_family_are_refused_by_name(model_named, session_with, tmp_path, name):
    model = model_named(name)
    for _ in range(2):
        session = session_with(model)
        result = answers(session, ids_of(N))
        session.close()
        assert result.tokens.reused == 0
        assert any("tiers keep nothing of" in note and "an object of its family's own" in note for note in result.notes)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_tiers_that_lose_something_keep_no_states(model_named, session_with, tmp_path, form):
    session = session_with(model_named("falcon_h1"), f"memory+disk:{tmp_path}?form={form}")
    result = answers(session, ids_of(N))
    assert any("only memory keeps" in note and form in note for note in result.notes)
    session.close()
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_goes_on_as_well(model_named, session_with, dtype):
    model = copy.deepcopy(model_named("falcon_h1")).to(getattr(torch, dtype))
    for at in range(2):
        session = session_with(model)
        if not session.adapter.capabilities.states:
            pytest.skip("the model itself does not go on from states in this precision")
        result = session.generate(text_of(ids_of(N)), max_new_tokens=4)
        assert result.tokens.reused == at * (N - 1)
        assert not faults(session)
        session.close()


def zeroed(states):
    return RestingStates(states.at, tuple({name: state * 0 for name, state in one.items()} for one in states.layers))


def of_another_shape(states):
    return RestingStates(
        states.at, tuple({name: state[..., :-1] for name, state in one.items()} for one in states.layers)
    )


def of_one_layer_less(states):
    return RestingStates(states.at, ({}, *states.layers[1:]))


def of_a_layer_more(states):
    return RestingStates(states.at, (*states.layers, {}))


def no_numbers(states):
    return RestingStates(
        states.at, tuple({name: state * float("nan") for name, state in one.items()} for one in states.layers)
    )


CHANGES = [zeroed, of_another_shape, of_one_layer_less, of_a_layer_more, no_numbers]


@pytest.mark.parametrize(
    ("name", "change"), [*((SAMPLE[0], each) for each in CHANGES), *((name, zeroed) for name in SAMPLE[1:])]
)
def test_states_that_do_not_give_their_golden_logits_are_refused(model_named, session_with, monkeypatch, name, change):
    """As they are where somebody changed them and sealed them again, or another version reads them otherwise."""
    model, ids = model_named(name), ids_of(N)
    first = session_with(model)
    answers(first, ids)
    first.close()
    unpack = tiered.unpack
    monkeypatch.setattr(tiered, "unpack", lambda *a: replace(unpack(*a), states=change(unpack(*a).states)))
    second = session_with(model)
    assert answers(second, ids).tokens.reused == 0
    (fault,) = faults(second)
    assert f"states after {N - 1} tokens" in fault.why
    assert second.store.figures()[1]["faults"] == 1
    second.close()
    monkeypatch.undo()
    third = session_with(model)  # what was refused is gone, and what the second left is good
    assert answers(third, ids).tokens.reused == N - 1


@pytest.mark.parametrize("name", SAMPLE)
def test_a_model_that_does_not_take_up_states_from_elsewhere_is_found_out(model_named, session_with, monkeypatch, name):
    """The planted fault of families that say nothing and go on from something else."""
    model, ids = model_named(name), ids_of(N)
    first = session_with(model)
    answers(first, ids)
    first.close()
    second = session_with(model)
    resume = StateCache.resume

    def forgetful(cache, states):
        resume(cache, states and LayerStates(states.at, zeroed(states).layers))

    monkeypatch.setattr(StateCache, "resume", forgetful)
    assert answers(second, ids).tokens.reused == 0
    assert len(faults(second)) == 1


MEMORY = {
    "of Python": MemoryError(),
    "of torch on a CPU": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    "of a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
}


@pytest.mark.parametrize("lack", MEMORY)
@pytest.mark.parametrize("method", ["placed", "write"])
def test_memory_that_runs_out_is_no_reason_to_refuse_states(model_named, session_with, monkeypatch, lack, method):
    model, ids = model_named("falcon_h1"), ids_of(N)
    first = session_with(model)
    answers(first, ids)
    first.close()

    def fail(*_, **__):
        raise MEMORY[lack]

    second = session_with(model)
    monkeypatch.setattr(StateCache, method, fail)
    result = answers(second, ids)
    assert result.tokens.reused == 0
    assert any("no memory for" in note for note in result.notes)
    assert not faults(second)
    monkeypatch.undo()
    second.close()
    assert answers(session_with(model), ids).tokens.reused == N - 1


@pytest.mark.parametrize("what", ["states", "kv"])
@pytest.mark.parametrize("how", ["flipped", "gone", "cut"])
def test_damage_is_a_miss_and_never_a_wrong_answer(model_named, session_with, tmp_path, what, how):
    model, ids = model_named("falcon_h1"), ids_of(N)
    first = session_with(model)
    answers(first, ids)
    first.close()
    tier = DiskTier(root=tmp_path / "kv")
    for path in tmp_path.rglob("*.safetensors"):
        form = tier.get(EntryKey.read(path.name.removesuffix(".safetensors"))).header.form
        if (form == "states") == (what == "states"):
            raw = bytearray(path.read_bytes())
            raw[-9] ^= 4
            path.write_bytes(raw[:-30] if how == "cut" else raw) if how != "gone" else path.unlink()
    second = session_with(model)
    assert answers(second, ids).tokens.reused == 0
    assert bool(faults(second)) == (how != "gone")


def test_without_a_golden_token_nothing_is_written(model_named, session_with, monkeypatch, tmp_path):
    monkeypatch.setattr(
        "nbkv.families.prefix.state_checkpoints.checkpoints",
        lambda states, adapter, golden=None: tuple(StateCheckpoint(each, 1.0) for each in states if each),
    )
    session = session_with(model_named("falcon_h1"))
    answers(session, ids_of(N))
    session.store.flush()
    tier = DiskTier(root=tmp_path / "kv")
    assert {tier.get(key).header.form for key in tuple(tier.keys())} == {""}
