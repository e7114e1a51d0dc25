"""Models whose weights lie in several places: accelerate's device maps, as far as a machine without a GPU has them."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

import nbkv
from nbkv.errors import BadOption, LoadError
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.identity.devices import run_device
from nbkv.models.identity.fingerprint import fingerprint

PARTS = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head", *(f"model.layers.{i}" for i in range(4)))
MAPS = {
    "a layer on disk": {"model.layers.2": "disk"},
    "the embedding on disk": {"model.embed_tokens": "disk"},
    "the head on disk": {"lm_head": "disk", "model.layers.3": "disk"},
    "all on disk": dict.fromkeys(PARTS, "disk"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model_of, tokenizer):
    path = tmp_path_factory.mktemp("placed") / "small"
    model_of("llama").save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def load(tmp_path, folder, caplog):
    caplog.set_level(logging.ERROR)
    opened = []

    def load(path=folder, **away):
        places = dict.fromkeys(PARTS, "cpu") | away
        kwargs = {"device_map": places, "offload_folder": str(tmp_path / f"off{len(opened)}")}
        opened.append(nbkv.load(path, model_kwargs=kwargs))
        return opened[-1]

    yield load
    for session in opened:
        session.close()


def greedy(model, ids, n):
    asked = torch.tensor([ids])
    out = model.generate(
        asked, attention_mask=torch.ones_like(asked), max_new_tokens=n, do_sample=False, pad_token_id=1
    )
    return tuple(out[0, len(ids) :].tolist())


@pytest.mark.parametrize("away", MAPS.values(), ids=MAPS)
def test_prefix_equals_the_models_own_forward(load, model_of, words, away):
    session = load(**away)
    model, whole = session.adapter.model, model_of("llama")
    assert any(parameter.is_meta for parameter in model.parameters())
    assert session.adapter.capabilities.walk
    assert str(session.adapter.device) == "cpu"
    assert session.adapter.devices == ("cpu",) * 4
    assert session.verify().ok

    chat = session.chat()
    for turn in range(4):
        result = chat.send(words(9, seed=turn), max_new_tokens=5)
        assert result.token_ids == greedy(whole, result.prompt_ids, 5)
        if turn:
            before = chat.results[-2]
            assert result.tokens.reused == len(before.prompt_ids) + len(before.token_ids) - 1
    ids = torch.tensor(result.prompt_ids)
    with torch.no_grad():
        expected = model(ids[None]).logits[0, -1]
    cache = GrowingCache()
    session.adapter.forward(ids[:30], cache, start=0)
    got = session.adapter.forward(ids[30:], cache, start=30)[-1]
    assert float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0)) < 1e-4


def test_what_lies_on_disk_is_part_of_the_fingerprint(load, folder, model_of, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    weights = load_file(other / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"] *= 1.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    here, there = load(**MAPS["a layer on disk"]), load(other, **MAPS["a layer on disk"])

    assert here.adapter.fingerprint == fingerprint(model_of("llama"))
    assert here.adapter.fingerprint != there.adapter.fingerprint


def test_requests_do_not_read_the_weights_again(load, words, monkeypatch):
    session, read = load(**MAPS["a layer on disk"]), []
    session.generate(words(9), max_new_tokens=2)
    monkeypatch.setattr("nbkv.models.identity.fingerprint.fingerprint", lambda _model: read.append(1))
    for seed in range(3):
        session.generate(words(9, seed=seed), max_new_tokens=2)

    assert not read


@pytest.mark.parametrize("ranges", [False, True], ids=["mask", "ranges"])
def test_every_layer_is_handed_all_it_needs_to_move(load, ranges):
    """Two GPUs need it: accelerate moves a layer's arguments, so states, masks and angles must be among them."""
    from accelerate.hooks import ModelHook, add_hook_to_module

    session, seen = load(), []
    adapter = replace(session.adapter, capabilities=replace(session.adapter.capabilities, ranges=ranges))

    class Border(ModelHook):
        def pre_forward(self, module, *args, **kwargs):
            seen.append([name for name, value in kwargs.items() if value is not None])
            return (args[0].clone(), *args[1:]), {
                name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in kwargs.items()
            }

    add_hook_to_module(session.adapter.model.model.layers[2], Border())
    ids, rows, cache = torch.arange(2, 32), torch.tensor([3, 17, 29]), GrowingCache()
    with torch.no_grad():
        expected = session.adapter.model(ids[None]).logits[0]
    seen.clear()
    adapter.forward(ids, cache, start=0)
    got = adapter.recompute(ids[rows], rows, cache, keep=3)

    assert torch.allclose(got, expected[rows], atol=1e-4)
    assert len(seen) == 2
    assert {"position_embeddings", "past_key_values"} <= set(seen[1])
    assert ("attention_mask" in seen[1]) is not ranges  # ranges of keys go to where the queries are


@pytest.mark.parametrize("installed", [True, False])
def test_one_device_works_with_and_without_accelerate(folder, words, monkeypatch, installed):
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    asked, moved, read = [], [], AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr("nbkv.models.loading.find_spec", lambda _name: installed or None)
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *args, **kwargs: asked.append(kwargs) or read(*args, **kwargs)
    )
    monkeypatch.setattr(LlamaForCausalLM, "to", lambda model, place: moved.append(place) or model)
    with nbkv.load(folder, device="cpu:0", dtype="float32") as session:
        assert session.generate(words(12), max_new_tokens=4).text

    assert [kwargs.get("device_map") for kwargs in asked] == (["cpu:0"] if installed else [None])
    assert moved == ([] if installed else ["cpu:0"])


def test_weights_without_values_are_named(make_model, tokenizer):
    model = make_model("llama")
    model.model.layers[1].mlp.to("meta")
    with pytest.raises(LoadError, match=r"no values for 3 weights, such as model\.layers\.1\.mlp\.gate_proj\.weight"):
        nbkv.load(model, tokenizer=tokenizer)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("away", [2, 3])
def test_an_adapter_needs_its_layers_in_memory(load, tokenizer, words, away):
    from peft import LoraConfig

    model = load(**{f"model.layers.{away}": "disk"}).adapter.model
    model.add_adapter(LoraConfig(target_modules=["q_proj"], layers_to_transform=[0, 2], init_lora_weights=False))
    if away == 2:
        with pytest.raises(LoadError, match="an adapter gets none"):
            nbkv.load(model, tokenizer=tokenizer)
        return
    with nbkv.load(model, tokenizer=tokenizer) as session:
        assert session.verify().ok
        session.generate(words(20), max_new_tokens=3)
        assert session.generate(words(25), max_new_tokens=3).tokens.reused == 21


def test_where_a_module_runs_is_what_its_hook_says():
    """As for layers on two GPUs, or in host memory while they run on one."""
    from accelerate.hooks import AlignDevicesHook, SequentialHook

    module, other = torch.nn.Linear(2, 2), torch.device("cpu")
    assert run_device(module, torch.device("meta")) == other
    module._hf_hook = AlignDevicesHook(execution_device="cuda:1")
    assert run_device(module, other) == torch.device("cuda", 1)
    module._hf_hook = SequentialHook(AlignDevicesHook(), AlignDevicesHook(execution_device="cuda:3"))
    assert run_device(module, other) == torch.device("cuda", 3)
    assert run_device(torch.nn.Linear(2, 2, device="meta"), other) == other


def test_device_and_device_map_are_one_choice(folder):
    with pytest.raises(BadOption, match="give one of them"):
        nbkv.load(folder, device="cpu", model_kwargs={"device_map": "cpu"})


def test_a_map_of_host_memory_is_a_cpu(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    from nbkv.models.loading import _place

    assert _place("auto", {}) == "cuda"
    assert _place("auto", {"device_map": "auto"}) == "cuda"
    assert _place("auto", {"device_map": {"": "cpu"}}) == "cpu"
    assert _place("auto", {"device_map": {"model": "cpu", "lm_head": "disk"}}) == "cpu"
    assert _place("auto", {"device_map": {"model": 0, "lm_head": "disk"}}) == "cuda"
