"""PEFT adapters: which one is active is part of who a model is."""

from __future__ import annotations

import pytest
import torch

import nbkv
from nbkv.errors import BadPrompt, UnsupportedModel
from nbkv.models.adapter import ModelAdapter
from nbkv.models.identity.fingerprint import Identity, fingerprint

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def lora(**options):
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False, **options
    )


def plain_with_adapters(make_model):
    """Return a PreTrainedModel with adapters of its own, and what switches them."""
    model = make_model("llama")
    torch.manual_seed(7)
    model.add_adapter(lora(), "one")
    model.add_adapter(lora(lora_dropout=0.5), "two")
    model.set_adapter("one")
    return model, model.set_adapter


def wrapped(make_model):
    """Return the same as a PeftModel."""
    from peft import get_peft_model

    torch.manual_seed(7)
    model = get_peft_model(make_model("llama"), lora(), "one")
    model.add_adapter("two", lora(lora_dropout=0.5))
    model.set_adapter("one")
    return model.eval(), model.set_adapter


@pytest.fixture(params=[plain_with_adapters, wrapped], ids=["own", "wrapped"])
def adapted(request, make_model, tokenizer):
    model, switch = request.param(make_model)
    with nbkv.load(model, tokenizer=tokenizer) as session:
        yield session, switch


def own_greedy(session, ids, n):
    model = session.adapter.model
    ids = torch.tensor([ids])
    for _ in range(n):
        with torch.no_grad(), session.adapter.evaluating():
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], dim=-1)
    return tuple(ids[0, -n:].tolist())


def test_a_chat_hits_and_is_the_models_own(adapted, words):
    session, _ = adapted
    chat = session.chat()
    for turn in range(4):
        result = chat.send(words(9, seed=turn), max_new_tokens=5)
        assert result.token_ids == own_greedy(session, result.prompt_ids, 5)
        if turn:
            assert result.tokens.reused == len(chat.results[-2].prompt_ids) + 4
    assert session.adapter.capabilities.walk
    assert session.verify().ok


def test_switching_is_a_miss_and_switching_back_a_hit(adapted, words):
    session, switch = adapted
    answers = {}
    for name, reused in (("one", 0), ("one", 20), ("two", 0), ("two", 20), ("one", 20)):
        switch(name)
        result = session.generate(words(20), max_new_tokens=5)
        assert result.tokens.reused == reused
        assert result.token_ids == answers.setdefault(name, result.token_ids)
        assert result.token_ids == own_greedy(session, result.prompt_ids, 5)
    assert answers["one"] != answers["two"]


def test_without_adapters_is_a_space_of_its_own(adapted, make_model, tokenizer, words):
    session, _ = adapted
    model = session.adapter.model
    with_it = session.generate(words(20), max_new_tokens=5)
    with nbkv.load(make_model("llama"), tokenizer=tokenizer) as base:
        expected = base.generate(words(20), max_new_tokens=5).token_ids
    for reused in (0, 20):
        if hasattr(model, "disable_adapter"):
            with model.disable_adapter():
                result = session.generate(words(20), max_new_tokens=5)
        else:
            model.disable_adapters()
            result = session.generate(words(20), max_new_tokens=5)
            model.enable_adapters()
        assert result.tokens.reused == reused
        assert result.token_ids == expected
    again = session.generate(words(20), max_new_tokens=5)
    assert again.tokens.reused == 20
    assert again.token_ids == with_it.token_ids != expected


def test_a_switch_in_the_middle_of_a_chat_is_noticed(adapted, words):
    session, switch = adapted
    chat = session.chat()
    first = chat.send(words(9), max_new_tokens=5)
    switch("two")
    second = chat.send(words(9, seed=1), max_new_tokens=5)

    assert second.tokens.reused == 0
    assert second.prompt_ids[: len(first.prompt_ids) + 5] == first.prompt_ids + first.token_ids
    assert second.token_ids == own_greedy(session, second.prompt_ids, 5)
    assert chat.send(words(9, seed=2), max_new_tokens=5).tokens.reused == len(second.prompt_ids) + 4


def test_a_switch_between_two_pieces_of_a_stream_keeps_nothing(adapted, words):
    session, switch = adapted
    stream = session.stream(words(20), max_new_tokens=8)
    next(stream)
    switch("two")
    list(stream)
    switch("one")
    result = session.generate(words(20), max_new_tokens=8)

    assert any("changed while it answered" in note for note in stream.result.notes)
    assert result.tokens.reused == 0
    assert result.token_ids == own_greedy(session, result.prompt_ids, 8)


def test_a_chunk_made_with_another_adapter_is_refused(adapted, words):
    session, switch = adapted
    chunk = session.chunk(words(6), name="six")
    switch("two")
    with pytest.raises(BadPrompt, match="'six' was made by another model; make it again"):
        session.generate([chunk, words(3)])
    switch("one")
    assert session.generate([chunk, words(3)], max_new_tokens=2).tokens.reused == 7


def test_merging_is_a_miss_and_unmerging_gives_no_stale_kv(make_model, tokenizer, words):
    model, _ = wrapped(make_model)
    with nbkv.load(model, tokenizer=tokenizer) as session:
        before = session.generate(words(20), max_new_tokens=5)
        model.merge_adapter()
        merged = session.generate(words(20), max_new_tokens=5)
        model.unmerge_adapter()
        model.merge_and_unload()
        unloaded = session.generate(words(20), max_new_tokens=5)

    assert merged.tokens.reused == unloaded.tokens.reused == 0
    assert before.token_ids == merged.token_ids == unloaded.token_ids


def test_an_adapter_loaded_again_under_its_name_is_another_one(make_model, tokenizer, words, tmp_path):
    model, _ = wrapped(make_model)
    model.save_pretrained(tmp_path, selected_adapters=["two"])
    with nbkv.load(model, tokenizer=tokenizer) as session:
        session.generate(words(20), max_new_tokens=5)
        model.delete_adapter("one")
        model.load_adapter(tmp_path / "two", "one")
        model.set_adapter("one")
        result = session.generate(words(20), max_new_tokens=5)

        assert result.tokens.reused == 0
        assert result.token_ids == own_greedy(session, result.prompt_ids, 5)


def test_how_strongly_an_adapter_counts_is_part_of_it(adapted, words):
    session, _ = adapted
    session.generate(words(20), max_new_tokens=5)
    layer = session.adapter.model.get_submodule(
        next(name for name, _ in session.adapter.model.named_modules() if name.endswith("layers.1.self_attn.q_proj"))
    )
    layer.scale_layer(3.0)
    result = session.generate(words(20), max_new_tokens=5)

    assert result.tokens.reused == 0
    assert result.token_ids == own_greedy(session, result.prompt_ids, 5)


def test_the_weights_are_read_once_until_something_changes(adapted, monkeypatch, words):
    session, switch = adapted
    read = []
    monkeypatch.setattr("nbkv.models.identity.fingerprint.fingerprint", lambda _model: read.append(1) or str(len(read)))
    identity = Identity(session.adapter.model)
    for _ in range(3):
        assert identity.digest == "1"
    switch("two")
    for _ in range(3):
        assert identity.digest == "2"
    session.adapter.model.to(torch.bfloat16)
    assert identity.digest == "3"


def test_loading_leaves_it_and_the_first_pass_to_no_request(make_model, tokenizer, words, tmp_path, monkeypatch):
    make_model("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    nbkv.load(tmp_path).close()
    taken, run, passes = [], ModelAdapter.warm_up, []
    monkeypatch.setattr(ModelAdapter, "warm_up", lambda adapter: passes.append(adapter) or run(adapter))
    monkeypatch.setattr(
        "nbkv.models.identity.fingerprint.fingerprint", lambda model: taken.append(model) or fingerprint(model)
    )
    with nbkv.load(tmp_path) as session:
        assert (len(taken), passes) == (1, [session.adapter])
        session.generate(words(9), max_new_tokens=2)
        assert len(taken) == 1


def test_a_folder_with_an_adapter_is_loaded_on_its_base_model(make_model, tokenizer, words, tmp_path):
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    make_model("llama").save_pretrained(tmp_path / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), lora())
    model.save_pretrained(tmp_path / "adapter")
    with nbkv.load(tmp_path / "adapter", tokenizer=tokenizer) as session:
        result = session.generate(words(20), max_new_tokens=5)
        assert result.token_ids == own_greedy(session, result.prompt_ids, 5)
        assert session.adapter.model.active_adapters() == ["default"]
    with nbkv.load(model, tokenizer=tokenizer) as other:
        assert other.generate(words(20), max_new_tokens=5).token_ids == result.token_ids


def test_adapters_that_look_at_the_whole_prompt_are_refused(make_model, tokenizer):
    from peft import PrefixTuningConfig, get_peft_model

    tuned = get_peft_model(make_model("llama"), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    with pytest.raises(UnsupportedModel, match="PREFIX_TUNING"):
        nbkv.load(tuned, tokenizer=tokenizer)
    invoked = get_peft_model(make_model("llama"), lora(alora_invocation_tokens=[5, 6]))
    with pytest.raises(UnsupportedModel, match="LORA"):
        nbkv.load(invoked, tokenizer=tokenizer)
