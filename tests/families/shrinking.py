"""Small random models of any family in transformers' auto-mapping, from the family's own config class."""

from __future__ import annotations

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

LAYERS = 4
VOCABULARY = 199

# What an option is called differs from family to family; an option a config class does not have is left out.
_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "sliding_window": 8,
    "attention_chunk_size": 8,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_NAMES = {
    "n_embd": 64,
    "n_layer": LAYERS,
    "n_layers": LAYERS,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "n_positions": 512,
    "n_inner": 96,
    "n_ctx": 512,
    "d_model": 64,
    "d_ff": 96,
    "d_inner": 96,
    "d_head": 16,
    "d_kv": 16,
    "dff": 96,
    "emb_dim": 64,
    "embed_dim": 64,
    "embedding_size": 64,
    "dim_model": 64,
    "dim_head": 16,
    "dim_ff": 96,
    "ffn_dim": 96,
    "ffn_hidden_size": 96,
    "num_layers": LAYERS,
    "decoder_layers": LAYERS,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96,
    "num_decoder_layers": LAYERS,
    "num_decoder_attention_heads": 4,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "num_encoder_layers": 1,
    "word_embed_proj_dim": 64,
    "rotary_dim": 8,
    "lru_width": 64,
}
_EXPERTS = {
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "shared_expert_intermediate_size": 32,
    "expert_ffn_hidden_size": 32,
}
_LATENT = {"q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 16}
_STATES = {
    "state_size": 8,
    "mamba_d_state": 8,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 1,
    "n_mamba_heads": 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_head_dim": 16,
    "linear_num_heads": 4,
    "attention_hidden_size": 64,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 16,
}
# What a family needs besides.
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_FULL = ["full_attention"] * LAYERS
_ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
_ZAMBA = {"attention_hidden_size": 128, "attention_head_dim": 32, "num_key_value_heads": 4}
_INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
    "ngram_vocab_size_base": 97,
}
_THREE_AXES = {"text_config": {"rope_parameters": _ROPE | {"mrope_section": [2, 3, 3]}}}
OWN: dict[str, dict] = {
    **dict.fromkeys(("glm4v", "glm46v", "glm_ocr", "glmga", "paddleocr_vl", "qwen2_vl", "qwen2_5_vl"), _THREE_AXES),
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {"rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": _ROUTED,
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma3n_text": {"num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "ministral": {"head_dim": 16},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "prophetnet": {"num_hidden_layers": None},
    "qwen4_exp": {"text_config": _INDEXER},
    "qwen4_exp_text": _INDEXER,
    "reformer": {"axial_pos_embds_dim": (32, 32), "axial_pos_shape": (16, 32)},
    "xlnet": {"max_position_embeddings": None},
    "xlstm": {"num_heads": 8, "qk_dim_factor": 1.0},
    "xmod": {"default_language": "en_XX"},
    "zamba": _ZAMBA | {"attn_layer_period": 2, "attn_layer_offset": 1},
    "zamba2": _ZAMBA | {"hybrid_layer_ids": [1, 3], "mamba_headdim": 16, "n_mamba_heads": 8},
    "zaya": {"num_experts_per_tok": 1},
}
SMALL = _TEXT | _NAMES | _EXPERTS | _LATENT | _STATES


def families() -> dict[str, type]:
    """Return every model type that transformers serves as a text decoder, and the auto class that makes it.

    Vision-language models are served as text models.
    """
    seeing = dict.fromkeys(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, AutoModelForImageTextToText)
    return dict(sorted((seeing | dict.fromkeys(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, AutoModelForCausalLM)).items()))


def small_config(model_type: str) -> PreTrainedConfig:
    """Return a small config of ``model_type``; parts for images or sound are shrunk like the text decoder."""
    return _small(type(AutoConfig.for_model(model_type)), OWN.get(model_type, {}))


def small_model(model_type: str, seed: int = 0) -> PreTrainedModel:
    """Return a small random model of ``model_type`` whose logits are spread like a trained model's, if that works."""
    torch.manual_seed(seed)
    model = families()[model_type].from_config(small_config(model_type)).eval()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for factor in (3.0, 1.0):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                wide = parameter.ndim > 1 and not any(word in name for word in ("embed", "wte", "shared", "router"))
                parameter.copy_(before[name] * factor if wide else before[name])
            if model.config.is_encoder_decoder or _spread(model):
                return model
    return model


def remembering(model: PreTrainedModel) -> PreTrainedModel:
    """Return ``model`` with recurrences that forget slowly and matter: what is lost of a state then shows in logits."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.fill_(-3.0)
            elif any(word in name for word in ("dt_bias", "dt_proj.bias", "dt_proj_bias")):
                parameter.fill_(1.0)
            elif any(word in name for word in ("in_proj", "x_proj", "out_proj", "conv1d.weight")):
                parameter.mul_(2.0)
    return model


def _spread(model: PreTrainedModel) -> bool:
    try:
        logits = model(torch.arange(2, 22)[None]).logits
    except Exception:  # noqa: BLE001  (whether nbkv says so in one line is what is surveyed)
        return True
    return bool(logits.isfinite().all()) and float(logits.abs().max()) < 1e4


def _small(config_class: type, own: dict) -> PreTrainedConfig:
    default = config_class()
    kept = {name: value for name, value in SMALL.items() if _has(default, name) and _writable(config_class, name)}
    if _has(default, "kv_lora_rank"):
        kept["num_key_value_heads"] = kept["num_attention_heads"]
        kept["head_dim"] = kept["qk_rope_head_dim"]
    parts = {
        name: _small(type(part), own.get(name, {})).to_dict()
        for name in getattr(config_class, "sub_configs", {})
        if (part := getattr(default, name, None)) is not None
    }
    if sections := (getattr(default, "rope_parameters", None) or {}).get("mrope_section"):
        share = default.rope_parameters.get("partial_rotary_factor") or 1.0
        kept["rope_parameters"] = default.rope_parameters | {"mrope_section": _sections(int(8 * share), len(sections))}
    if _writable(config_class, "layer_types") and (kinds := getattr(default, "layer_types", None)):
        kept["layer_types"] = _types(kinds)
    if hasattr(default, "is_decoder"):
        kept["is_decoder"] = True
    own = {name: value for name, value in own.items() if name not in parts}
    given = {name: value for name, value in (kept | parts | own).items() if value is not None}
    return config_class(**given)


def _sections(pairs: int, axes: int) -> list[int]:
    return [*[pairs // axes] * (axes - 1), pairs - pairs // axes * (axes - 1)]


def _writable(config_class: type, name: str) -> bool:
    found = getattr(config_class, config_class.attribute_map.get(name, name), None)
    return not isinstance(found, property) or found.fset is not None


def _types(kinds: list[str]) -> list[str]:
    """Return every kind of layer there is, in order, repeated to ``LAYERS``."""
    distinct = list(dict.fromkeys(kinds))
    return [distinct[i % len(distinct)] for i in range(LAYERS)]


def _has(config: object, name: str) -> bool:
    try:
        return getattr(config, name, None) is not None
    except Exception:  # noqa: BLE001  (a per-layer attribute that differs between layers)
        return True
