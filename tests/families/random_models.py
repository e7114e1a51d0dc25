"""Small random models, a family of models each, whose parts are as the family's own config class makes them."""

from __future__ import annotations

import torch
import transformers

_COMMON = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_WINDOW = {"sliding_window": 8}
_GPT2 = {"vocab_size": 199, "n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 512}
_PLAIN = {name: value for name, value in _COMMON.items() if name not in {"head_dim", "num_key_value_heads"}}
_EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LATENT = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "head_dim": 8,
}
# The last two layers use the K/V of the first two.
_SHARED = {
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "vocab_size_per_layer_input": 199,
    "hidden_size_per_layer_input": 16,
}
_SIGHT = {"depth": 1, "num_heads": 2}  # no test shows a picture: what transformers makes by default has gigabytes
_THREE_AXES = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}}

FAMILIES = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _COMMON),
    "mistral": ("MistralForCausalLM", "MistralConfig", _COMMON | _WINDOW),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _COMMON),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _COMMON),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _COMMON | _WINDOW),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", _COMMON | _WINDOW | {"sliding_window_pattern": 2}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _COMMON),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT2 | {"bos_token_id": 0, "eos_token_id": 1}),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _COMMON),
    "olmoe": ("OlmoeForCausalLM", "OlmoeConfig", _COMMON | _EXPERTS),
    "granite": ("GraniteForCausalLM", "GraniteConfig", _COMMON | {"attention_multiplier": 0.25}),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Config", _COMMON | {"no_rope_layer_interval": 2}),
    "glm4": ("Glm4ForCausalLM", "Glm4Config", _COMMON),
    "cohere": ("CohereForCausalLM", "CohereConfig", _COMMON | {"logit_scale": 1.0}),
    "cohere2": ("Cohere2ForCausalLM", "Cohere2Config", _COMMON | _WINDOW | {"logit_scale": 1.0}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", _COMMON | _EXPERTS),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", _COMMON | _EXPERTS),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _PLAIN),
    "phi": ("PhiForCausalLM", "PhiConfig", _PLAIN),
    "falcon": ("FalconForCausalLM", "FalconConfig", _PLAIN),
    "bloom": ("BloomForCausalLM", "BloomConfig", _PLAIN | {"n_layer": 4, "n_head": 4}),
    "opt": ("OPTForCausalLM", "OPTConfig", _PLAIN | {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "starcoder2": ("Starcoder2ForCausalLM", "Starcoder2Config", _PLAIN | _WINDOW),
    "gemma3n": ("Gemma3nForCausalLM", "Gemma3nTextConfig", _COMMON | _WINDOW | _SHARED),
    "gemma4": ("Gemma4ForCausalLM", "Gemma4TextConfig", _COMMON | _WINDOW | _SHARED | {"global_head_dim": 32}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", "DeepseekV3Config", _COMMON | _EXPERTS | _LATENT),
    "qwen2_vl": (
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLConfig",
        {"text_config": _COMMON | _THREE_AXES, "vision_config": _SIGHT | {"embed_dim": 32, "hidden_size": 64}},
    ),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLConfig",
        {
            "text_config": _COMMON,
            "vision_config": _SIGHT
            | {"hidden_size": 32, "intermediate_size": 48, "out_hidden_size": 64, "deepstack_visual_indexes": [0]},
        },
    ),
}

# Not among the families that every exact strategy is tried on token by token: reuse goes by whole blocks here.
BLOCKWISE = {"sdar": ("Qwen3ForCausalLM", "Qwen3Config", _COMMON | {"block_size": 4, "mask_token_id": 198})}


def make_model(family: str, seed: int = 0, **changes: object) -> transformers.PreTrainedModel:
    """Return a small random model of ``family`` whose logits are spread like a trained model's."""
    model_class, config_class, options = (FAMILIES | BLOCKWISE)[family]
    torch.manual_seed(seed)
    config = getattr(transformers, config_class)(**(options | changes))
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name and "wte" not in name:
                parameter.mul_(3.0)
    model.generation_config.eos_token_id = None
    return model
