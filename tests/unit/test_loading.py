from __future__ import annotations

import shutil

import pytest

import nbkv
from nbkv.errors import BadOption, LoadError, UnsupportedModel
from nbkv.models.pretrained.source import bundled


@pytest.fixture(scope="session")
def folder(tmp_path_factory, model_of, tokenizer):
    path = tmp_path_factory.mktemp("model") / "small"
    model_of("llama").save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the variable is read at import, too early


def one_line(error):
    return "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_folder_is_loaded_as_transformers_does(folder, model_of, tokenizer, words):
    with nbkv.load(str(folder)) as session, nbkv.load(model_of("llama"), tokenizer=tokenizer) as other:
        result = session.generate(words(12), max_new_tokens=6)

        assert session.model_name == "small"
        assert result.token_ids == other.generate(words(12), max_new_tokens=6).token_ids
        assert any("float32" in note for note in result.notes)
        assert session.adapter.fingerprint == other.adapter.fingerprint


def test_dtype_is_taken(folder, words):
    with nbkv.load(folder, dtype="bfloat16") as session:
        assert any("bfloat16" in note for note in session.generate(words(5), max_new_tokens=2).notes)


def test_the_bundled_models_are_listed_and_suggested():
    assert "tiny" in bundled()
    with pytest.raises(LoadError, match="did you mean 'tiny'"):
        nbkv.load("tinyy")


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/nowhere/at/all", "some/hub-model"])
def test_what_cannot_be_reached_is_one_line(name):
    with pytest.raises(LoadError) as error:
        nbkv.load(name)

    assert one_line(error)
    assert name in str(error.value)


def test_a_text_file_posing_as_weights(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "model.safetensors").write_text("these are no weights")
    with pytest.raises(LoadError) as error:
        nbkv.load(str(broken))

    assert one_line(error)


def test_truncated_weights(folder, tmp_path):
    broken = tmp_path / "cut"
    shutil.copytree(folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(LoadError):
        nbkv.load(str(broken))


def test_a_file_a_folder_without_config_and_a_missing_tokenizer(folder, tmp_path):
    (tmp_path / "file.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LoadError, match="is a file"):
        nbkv.load(str(tmp_path / "file.txt"))
    with pytest.raises(LoadError, match=r"config\.json"):
        nbkv.load(str(tmp_path / "empty"))
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        shutil.copy(folder / name, bare / name)
    with pytest.raises(LoadError, match="tokenizer"):
        nbkv.load(str(bare))


def test_options_of_loading(folder, model_of, tokenizer):
    with pytest.raises(BadOption, match="device"):
        nbkv.load(str(folder), device="abacus")
    with pytest.raises(BadOption, match="dtype"):
        nbkv.load(str(folder), dtype="int3")
    with pytest.raises(BadOption, match="tokenizer"):
        nbkv.load(model_of("llama"))
    with pytest.raises(BadOption, match="loaded already"):
        nbkv.load(model_of("llama"), tokenizer=tokenizer, dtype="bfloat16")
    with pytest.raises(UnsupportedModel, match="int"):
        nbkv.load(3)


GRIFFIN = {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 64, "lru_width": 32}
GRIFFIN |= {"attention_window_size": 8, "bos_token_id": 0, "pad_token_id": 1}
RECURRENT = {
    "Mamba": {},
    "Mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1, "state_size": 8},
    "RecurrentGemma": GRIFFIN,
}


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_recurrent_model_is_its_own_with_prefix_or_refuses_it_by_name(tokenizer, words, kind):
    import torch
    import transformers

    torch.manual_seed(0)
    common = {"vocab_size": 199, "hidden_size": 32, "num_hidden_layers": 3, "eos_token_id": None}
    config = getattr(transformers, f"{kind}Config")(**common, tie_word_embeddings=False, **RECURRENT[kind])
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20.0)
    if kind == "RecurrentGemma":
        with pytest.raises(UnsupportedModel, match="prefix cannot serve"):
            nbkv.load(model, tokenizer=tokenizer)
    with nbkv.load(model, tokenizer=tokenizer, strategy="full" if kind == "RecurrentGemma" else "prefix") as session:
        for result in [session.generate(words(12), max_new_tokens=8) for _ in range(2)]:
            assert len(set(result.token_ids)) > 3
            ids = torch.tensor([result.prompt_ids])
            expected = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=1
            )
            assert list(result.token_ids) == expected[0, ids.shape[1] :].tolist()
        assert result.tokens.reused == (0 if kind == "RecurrentGemma" else 12)


def test_a_vision_language_model_is_served_as_text(tmp_path, make_model, tokenizer, words):
    make_model("qwen3_vl").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with nbkv.load(tmp_path) as session:
        first = session.generate(words(20), max_new_tokens=4)
        again = session.generate(words(20), max_new_tokens=4)

    assert again.tokens.reused == 20
    assert again.token_ids == first.token_ids == session_full(tmp_path, words)


def session_full(folder, words):
    with nbkv.load(folder, strategy="full") as session:
        return session.generate(words(20), max_new_tokens=4).token_ids
