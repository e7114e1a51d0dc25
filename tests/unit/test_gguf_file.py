"""GGUF files made here with the package gguf's own writer, as llama.cpp would have them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import nbkv
from nbkv.errors import LoadError, UnsupportedModel
from nbkv.models.pretrained import gguf_file
from nbkv.models.pretrained.gguf_header import read_header

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed (it is in the extra dev)")
pytest.importorskip("accelerate", reason="transformers reads GGUF files only with accelerate")

HEADS, KV_HEADS, WIDTH, LAYERS = 4, 2, 64, 3
TEMPLATE = "{% for message in messages %}<|begin|>{{ message['content'] }}<|end|>{% endfor %}"
PLACES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def vocabulary():
    return ["<|begin|>", "<|end|>", *(chr(code) for code in range(33, 127)), "Ġ", "ab", "cd"]


def small_llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary()), hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=512, tie_word_embeddings=False,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    return model


def interleaved(weight, heads):
    """Order the rows of Q and K as llama.cpp has them, whose rotary embedding turns neighbours."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def named(model):
    """Yield each weight with its GGUF name, as an array."""
    for name, value in model.state_dict().items():
        array = value.float().numpy()
        base = name.removesuffix(".weight")
        if base.startswith("model.layers."):
            _, _, layer, place = base.split(".", 3)
            if place.endswith(("q_proj", "k_proj")):
                array = interleaved(array, HEADS if place.endswith("q_proj") else KV_HEADS)
            yield f"blk.{layer}.{PLACES[place]}.weight", array
        else:
            top = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
            yield f"{top[base]}.weight", array


def write(path, kind):
    """Write a random Llama with its matrices of ``kind``; return a model with the very weights that were written."""
    model, wanted = small_llama(), gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(vocabulary()))
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{kind}"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(vocabulary())
    writer.add_token_types([3, 3] + [1] * (len(vocabulary()) - 2))
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    back = {}
    for name, array in named(model):
        packed = gguf.quants.quantize(array, wanted) if array.ndim > 1 else array
        writer.add_tensor(name, packed, raw_dtype=wanted if array.ndim > 1 else None)
        back[name] = gguf.quants.dequantize(packed, wanted) if array.ndim > 1 else array
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return restored(model, back)


def restored(model, arrays):
    """Put what was written into ``model``, Q and K back in the order that transformers has."""
    own = model.state_dict()
    for (name, _), key in zip(named(model), own, strict=True):
        array = arrays[name]
        heads = HEADS if "q_proj" in key else KV_HEADS if "k_proj" in key else 0
        if heads:
            array = array.reshape(heads, array.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(array.shape)
        own[key].copy_(torch.tensor(np.ascontiguousarray(array)))
    return model


@pytest.fixture(scope="module", params=["F16", "Q8_0", "Q4_0"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def written(tmp_path_factory, kind):
    path = tmp_path_factory.mktemp("gguf") / f"small-{kind}.gguf"
    return path, write(path, kind)


def test_logits_are_those_of_the_dequantised_weights(written, kind):
    path, reference = written
    with nbkv.load(path, dtype="float32") as session:
        result = session.generate("ab cd ef", max_new_tokens=4)
        ids = torch.tensor([result.prompt_ids])
        with torch.no_grad():
            mine, theirs = session.adapter.model(ids).logits, reference(ids).logits

        assert theirs.std() > 0.1
        assert (mine - theirs).abs().max() < 1e-4 * max(1, theirs.abs().max())
        said = "read" if kind == "F16" else "dequantised"
        assert f"weights {said} from {kind} GGUF" in result.notes
        assert session.model_name == f"small-{kind}"
        assert session.generate("ab cd ef", max_new_tokens=4).tokens.reused == len(result.prompt_ids) - 1


def test_the_tokenizer_and_its_template_come_from_the_file(written):
    with nbkv.load(str(written[0])) as session:
        assert session.has_template
        result = session.generate([{"role": "user", "content": "ab"}], max_new_tokens=2)
        assert session.tokenizer.decode(result.prompt_ids) == "<|begin|>ab<|end|>"


def test_it_is_cast_and_saved_like_any_other(written, tmp_path):
    with nbkv.load(written[0]) as session:
        model = session.adapter.model
        assert not hasattr(model.config, "quantization_config")
        model.float().save_pretrained(tmp_path)
        session.tokenizer.save_pretrained(tmp_path)
        before = session.generate("ab cd", max_new_tokens=6).token_ids
    with nbkv.load(tmp_path) as session:
        assert session.generate("ab cd", max_new_tokens=6).token_ids == before


def test_transformers_without_the_config_class_is_served_too(written, monkeypatch):
    path, reference = written
    monkeypatch.delattr(transformers, "GgufConfig", raising=False)
    model = gguf_file.read_weights(path, {"dtype": torch.float32})
    assert torch.allclose(model.lm_head.weight, reference.lm_head.weight, atol=1e-6)


def test_packed_weights_are_refused(written):
    config = getattr(transformers, "GgufConfig", None)
    if config is None:
        pytest.skip("this transformers never keeps weights packed")
    with pytest.raises(UnsupportedModel, match="packed weights cannot be served"):
        nbkv.load(written[0], model_kwargs={"quantization_config": config()})


def test_what_needs_a_package_says_how_to_get_it(written, monkeypatch):
    for missing in ("gguf", "accelerate"):
        monkeypatch.setattr(gguf_file, "find_spec", lambda name, gone=missing: None if name == gone else name)
        with pytest.raises(LoadError, match=f"pip install {missing}$"):
            nbkv.load(written[0])


def test_files_that_are_none_are_refused_in_one_line(written, tmp_path):
    whole = written[0].read_bytes()
    for name, content, said in (
        ("text.gguf", b"these are no weights", "does not begin with GGUF"),
        ("cut.gguf", whole[:700], "GGUF"),
        ("short.gguf", whole[: len(whole) // 2], "cannot read"),
        ("empty.gguf", b"", "does not begin with GGUF"),
        ("old.gguf", b"GGUF\x01" + whole[5:], "version is 1"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LoadError, match=said) as error:
            nbkv.load(tmp_path / name)
        assert "\n" not in str(error.value)
        assert name in str(error.value)
    with pytest.raises(LoadError, match="no file"):
        nbkv.load(tmp_path / "none.gguf")
    with pytest.raises(LoadError, match=r"small-\w+\.gguf"):
        nbkv.load(written[0].parent)


def test_a_part_of_a_split_model_is_refused(tmp_path):
    writer = gguf.GGUFWriter(str(tmp_path / "part.gguf"), "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(LoadError, match="one part of a split model"):
        nbkv.load(tmp_path / "part.gguf")


def test_the_header_is_the_one_that_gguf_reads(written):
    mine, theirs = read_header(written[0]), gguf.GGUFReader(written[0])
    assert mine.entries["general.architecture"] == "llama"
    assert mine.entries["llama.rope.freq_base"] == 10000.0
    assert mine.entries["tokenizer.chat_template"] == TEMPLATE
    assert set(mine.entries) == {name for name in theirs.fields if not name.startswith("GGUF.")}
    assert mine.types.total() == sum(int(tensor.n_elements) for tensor in theirs.tensors)
