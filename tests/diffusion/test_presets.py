"""Checkpoints in the layouts of published block-diffusion models, with random weights."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import nbkv
from nbkv.errors import LoadError

SHAPE = {"vocab_size": 199, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
HEADS = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "eos_token_id": 1,
    "rms_norm_eps": 1e-6,
}
SDAR = {
    "architectures": ["SDARForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"},
    "attn_implementation": "flex_attention",
    "block_size": 8,
    "fuse_cross_entropy": True,
    "head_dim": 16,
    "model_type": "sdar",
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "torch_dtype": "float32",
    "use_sliding_window": False,
}
FAST_DLLM = {
    "architectures": ["Fast_dLLM_QwenForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling.Fast_dLLM_QwenForCausalLM"},
    "bd_size": 16,
    "layer_types": ["full_attention"] * 3,
    "model_type": "Fast_dLLM_Qwen",
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
}
LLADA2 = {
    "architectures": ["LLaDA2MoeModelLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_llada2_moe.LLaDA2MoeModelLM"},
    "first_k_dense_replace": 1,
    "head_dim": 16,
    "model_type": "llada2_moe",
    "moe_intermediate_size": 32,
    "moe_router_enable_expert_bias": True,
    "n_group": 4,
    "norm_topk_prob": True,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_shared_experts": 1,
    "partial_rotary_factor": 0.5,
    "rope_scaling": None,
    "rope_theta": 600000,
    "routed_scaling_factor": 2.5,
    "score_function": "sigmoid",
    "topk_group": 2,
    "use_bias": False,
    "use_qk_norm": True,
    "use_qkv_bias": False,
}


def write(folder, tokenizer, config, weights):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SHAPE | HEADS | config))
    save_file(weights, folder / "model.safetensors")
    tokenizer.save_pretrained(folder)
    return str(folder)


def random_weights(model, tmp_path):
    """Return the weights of ``model`` as its own checkpoints name them."""
    model.save_pretrained(tmp_path / "native")
    return load_file(tmp_path / "native" / "model.safetensors")


def llada2_weights(n_experts=8):
    """Return random weights by the names of modeling_llada2_moe.py."""
    torch.manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape) * 0.15

    weights = {"model.word_embeddings.weight": draw(199, 64), "model.norm.weight": 1 + draw(64)}
    weights["lm_head.weight"] = draw(199, 64)
    for layer in range(3):
        at = f"model.layers.{layer}."
        weights |= {at + f"{name}_layernorm.weight": 1 + draw(64) for name in ("input", "post_attention")}
        weights |= {at + f"attention.{name}_layernorm.weight": 1 + draw(16) for name in ("query", "key")}
        weights[at + "attention.query_key_value.weight"] = draw(128, 64)
        weights[at + "attention.dense.weight"] = draw(64, 64)
        homes = {"mlp.": 96} if layer == 0 else {f"mlp.experts.{i}.": 32 for i in range(n_experts)}
        if layer:
            homes["mlp.shared_experts."] = 32
            weights[at + "mlp.gate.weight"] = draw(n_experts, 64)
            weights[at + "mlp.gate.expert_bias"] = draw(n_experts) * 5
        for home, width in homes.items():
            weights |= {at + home + f"{name}_proj.weight": draw(width, 64) for name in ("gate", "up")}
            weights[at + home + "down_proj.weight"] = draw(64, width)
    return weights


def norm(x, weight):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight


def turned(x, theta=600000.0, width=8):
    """Return ``x`` ``[H, T, 16]`` with its first half turned, halves against halves."""
    angles = torch.arange(x.shape[1])[:, None] / theta ** (torch.arange(0, width, 2) / width)[None]
    low, high, rest = x[..., : width // 2], x[..., width // 2 : width], x[..., width:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([low * cos - high * sin, high * cos + low * sin, rest], dim=-1)


def llada2_logits(weights, ids, block):
    """Return the logits of the network that the weights' names are of, written out; its experts row by row."""

    def mlp(x, home):
        gate, up, down = (weights[f"{home}{name}_proj.weight"] for name in ("gate", "up", "down"))
        return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T

    def experts(x, at):
        chances = torch.sigmoid(x @ weights[at + "gate.weight"].T)
        biased = chances + weights[at + "gate.expert_bias"]
        groups = sorted(range(4), key=lambda g: -float(biased[2 * g : 2 * g + 2].topk(2).values.sum()))[:2]
        open_to = [expert for group in groups for expert in (2 * group, 2 * group + 1)]
        best = sorted(open_to, key=lambda expert: -float(biased[expert]))[:2]
        total = sum(chances[expert] for expert in best)
        return 2.5 * sum(chances[e] / total * mlp(x, f"{at}experts.{e}.") for e in best) + mlp(
            x, at + "shared_experts."
        )

    blocks = torch.arange(len(ids)) // block
    hidden = weights["model.word_embeddings.weight"][ids]
    for layer in range(3):
        at = f"model.layers.{layer}."
        x = norm(hidden, weights[at + "input_layernorm.weight"]) @ weights[at + "attention.query_key_value.weight"].T
        queries, keys, values = x.view(len(ids), 8, 16).transpose(0, 1).split([4, 2, 2])
        queries = turned(norm(queries, weights[at + "attention.query_layernorm.weight"]))
        keys = turned(norm(keys, weights[at + "attention.key_layernorm.weight"]))
        scores = queries @ keys.repeat_interleave(2, 0).transpose(1, 2) / 4
        scores = scores.masked_fill(blocks[:, None] < blocks[None, :], float("-inf"))
        seen = (scores.softmax(-1) @ values.repeat_interleave(2, 0)).transpose(0, 1).reshape(len(ids), 64)
        hidden = hidden + seen @ weights[at + "attention.dense.weight"].T
        x = norm(hidden, weights[at + "post_attention_layernorm.weight"])
        deeper = torch.stack([experts(row, at + "mlp.") for row in x]) if layer else mlp(x, at + "mlp.")
        hidden = hidden + deeper
    return norm(hidden, weights["model.norm.weight"]) @ weights["lm_head.weight"].T


def native(kind, make_model, changes):
    return make_model(
        kind, **SHAPE | HEADS | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}} | changes
    )


@pytest.mark.parametrize("told", [SDAR, FAST_DLLM])
def test_qwen_bodies_are_read_by_their_native_class(tmp_path, make_model, make_tokenizer, plain_logits, told):
    family, block = ("qwen3", 8) if told is SDAR else ("qwen2", 16)
    model = native(family, make_model, {"head_dim": 16} if family == "qwen3" else {})
    weights = random_weights(model, tmp_path)
    folder = write(tmp_path / "theirs", make_tokenizer(), told | {"mask_token_id": 198}, weights)
    with nbkv.load(folder) as session:
        loaded, ids = session.adapter.model, list(range(3, 2 * block + 3))

        assert type(loaded) is type(model)
        assert torch.equal(plain_logits(loaded, ids, block), plain_logits(model, ids, block))
        assert session.adapter.recipe.block == block
        assert session.adapter.recipe.shifted == (family == "qwen2")
        assert session.adapter.recipe.sub_block == (8 if family == "qwen2" else None)
        assert session.generate("w1 w2 w3", max_new_tokens=5).decoding["block"] == block


def test_llada2_is_read_as_a_glm4_moe_and_computes_the_same(tmp_path, make_tokenizer, plain_logits):
    weights = llada2_weights()
    folder = write(tmp_path / "llada2", make_tokenizer(), LLADA2 | {"block_size": 8, "mask_token_id": 198}, weights)
    with nbkv.load(folder) as session:
        ids = [5, 9, 77, 4, 101, 3, 3, 60, 8, 12, 150, 31]
        got, expected = plain_logits(session.adapter.model, ids, 8), llada2_logits(weights, ids, 8)

        assert isinstance(session.adapter.model, transformers.Glm4MoeForCausalLM)
        assert float((got - expected).abs().max() / expected.abs().max().clamp(min=1)) < 1e-5
        assert session.adapter.recipe.unmask == "dynamic(threshold=0.95)"
        assert session.adapter.model.generation_config.eos_token_id == 1
        assert session.verify("prefix").ok
        assert len(session.generate("w1 w2 w3", max_new_tokens=9).token_ids) == 9


def test_presets_know_block_mask_and_end(tmp_path, make_model, make_tokenizer):
    from nbkv.models.diffusion.presets import PRESETS

    told = {
        name: PRESETS[name].config({"model_type": name, "num_attention_heads": 4})
        for name in ("sdar", "Fast_dLLM_Qwen", "llada2_moe")
    }

    assert [(each["block_size"], each["mask_token_id"], each["eos_token_id"]) for each in told.values()] == [
        (4, 151669, 151643),
        (32, 151665, 151645),
        (32, 156895, 156892),
    ]


@pytest.mark.parametrize("change", [{"use_bias": True}, {"score_function": "softmax"}, {"use_qk_norm": False}])
def test_what_the_native_class_cannot_compute_is_refused(tmp_path, make_tokenizer, change):
    folder = write(tmp_path / "llada2", make_tokenizer(), LLADA2 | change, llada2_weights())
    with pytest.raises((LoadError, nbkv.UnsupportedModel), match=next(iter(change))):
        nbkv.load(folder)
