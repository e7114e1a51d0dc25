"""Quantised weights pass through untouched: torchao's int8 on a CPU stands for all of them."""

from __future__ import annotations

import pytest
import torch

import nbkv
from nbkv.models.identity.fingerprint import fingerprint

pytest.importorskip("torchao", reason="make test installs torchao apart and runs this folder with it")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def quantise():
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    def quantise(model):
        quantize_(model, Int8WeightOnlyConfig())
        return model

    return quantise


@pytest.fixture(params=["float32", "bfloat16"])
def session(request, make_model, quantise, tokenizer):
    model = quantise(make_model("llama").to(getattr(torch, request.param)))
    with nbkv.load(model, tokenizer=tokenizer) as session:
        yield session


def test_a_chat_is_served_from_the_store_with_the_models_own_logits(session, words):
    chat, model = session.chat(), session.adapter.model
    for turn in range(4):
        result = chat.send(words(9, seed=turn), max_new_tokens=5)
        if turn:
            assert result.tokens.reused == len(chat.results[-2].prompt_ids) + 4
    table = session.compare(chat.results[-1], ["full", "prefix"], repeat=1, max_new_tokens=3)

    assert session.adapter.capabilities.walk
    assert session.verify().ok
    assert table.results[1].fidelity.kl < (1e-6 if session.adapter.dtype == torch.float32 else 1e-2)
    assert type(model.model.layers[0].mlp.up_proj.weight).__name__ != "Parameter"


def test_greedy_answers_are_transformers_own(make_model, quantise, tokenizer, words):
    model = quantise(make_model("qwen3"))
    with nbkv.load(model, tokenizer=tokenizer) as session:
        for seed in (0, 0, 1):
            result = session.generate(words(15) + words(5, seed=seed), max_new_tokens=6)
            ids = torch.tensor([result.prompt_ids])
            expected = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=1
            )
            assert list(result.token_ids) == expected[0, ids.shape[1] :].tolist()


def test_kv_has_the_dtype_of_the_hidden_states(session):
    expected = session.adapter.model.model.norm.weight.dtype

    assert session.adapter.dtype == expected
    assert f"{expected}".removeprefix("torch.") in session.adapter.place


def test_quantised_weights_are_another_model(make_model, quantise):
    plain, one, same = make_model("llama"), quantise(make_model("llama")), quantise(make_model("llama"))
    other = quantise(make_model("llama", seed=1))

    assert fingerprint(one) == fingerprint(same)
    assert len({fingerprint(model) for model in (plain, one, other)}) == 3


def test_a_quantization_config_goes_to_transformers(make_model, tokenizer, words, tmp_path):
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    make_model("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    kwargs = {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}
    with nbkv.load(tmp_path) as plain, nbkv.load(tmp_path, model_kwargs=kwargs) as session:
        assert type(session.adapter.model.model.layers[0].mlp.up_proj.weight).__name__ != "Parameter"
        assert session.adapter.fingerprint != plain.adapter.fingerprint
        assert session.verify().ok
        session.generate(words(20), max_new_tokens=3)
        assert session.generate(words(25), max_new_tokens=3).tokens.reused == 21


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.uint8, torch.int8, torch.int32, torch.bool])
def test_weights_of_any_dtype_are_told_apart(dtype):
    def holder(value):
        module = torch.nn.Module()
        module.register_buffer("qweight", torch.full((200,), value).to(dtype))
        return module

    assert fingerprint(holder(1.0)) == fingerprint(holder(1.0))
    assert fingerprint(holder(1.0)) != fingerprint(holder(0.0))
