"""Published block-diffusion checkpoints whose own code is a transformers model under another name: how to read them.

Their configs name classes that transformers does not have. What these classes compute is what a native class computes,
so the native one is loaded: no code of a checkpoint is run. Each preset was written from the public code that it names;
the layouts are tested with random weights, the published weights were not tried (``nbkv verify MODEL`` settles it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from nbkv.errors import UnsupportedModel

Tensors = Iterable[tuple[str, torch.Tensor]]

# Entries of a config that are about a checkpoint's own classes, not about the network.
_NOT_THE_NETWORK = ("architectures", "auto_map", "attn_implementation", "model_type", "transformers_version")

_TURNING = ("rope_theta", "partial_rotary_factor", "rope_scaling")  # transformers has them in one entry now


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How the checkpoints of one ``model_type`` become a native model of type ``body``.

    ``adds`` goes into the config where it says nothing itself, and so does ``read_from``, the type it had; ``renamed``
    gives its entries the native names, and ``tensors`` does so for the weights (None: they have them already).
    ``refused`` are entries that the native class cannot follow, with the only value it can. ``source`` names the code
    it was read from.
    """

    body: str
    adds: dict[str, Any]
    renamed: dict[str, str]
    source: str
    refused: dict[str, object]
    tensors: Callable[[Tensors, dict[str, Any]], Iterator[tuple[str, torch.Tensor]]] | None = None

    def config(self, told: dict[str, Any]) -> dict[str, Any]:
        """Return the native config's entries for the checkpoint's own ``told``; raises ``UnsupportedModel``."""
        for name, only in self.refused.items():
            if told.get(name, only) != only:
                message = f"{told['model_type']} with {name}={told[name]!r} cannot be read (accepted: {only!r})"
                raise UnsupportedModel(message)
        kept = {self.renamed.get(key, key): value for key, value in told.items() if key not in _NOT_THE_NETWORK}
        kept = {key: value for key, value in kept.items() if value is not None}
        if turning := {key: kept.pop(key) for key in _TURNING if key in kept}:
            scaling = turning.pop("rope_scaling", {})
            kept["rope_parameters"] = {"rope_type": scaling.get("type", "default")} | turning | scaling
        return self.adds | kept | {"read_from": told["model_type"]}


def _unfused(tensors: Tensors, config: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield LLaDA2's weights by the names of GLM-4-MoE; queries, keys and values lie in one matrix there."""
    heads, kv_heads = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
    for name, tensor in tensors:
        if ".attention.query_key_value." in name:
            width = tensor.shape[0] // (heads + 2 * kv_heads)
            parts = tensor.split([heads * width, kv_heads * width, kv_heads * width])
            for letter, part in zip("qkv", parts, strict=True):
                yield name.replace(".attention.query_key_value.", f".self_attn.{letter}_proj."), part
            continue
        for theirs, native in _LLADA2_NAMES:
            name = name.replace(theirs, native)  # noqa: PLW2901
        yield name, tensor


_LLADA2_NAMES = (
    ("model.word_embeddings.", "model.embed_tokens."),
    (".attention.dense.", ".self_attn.o_proj."),
    (".attention.query_layernorm.", ".self_attn.q_norm."),
    (".attention.key_layernorm.", ".self_attn.k_norm."),
    (".mlp.gate.expert_bias", ".mlp.gate.e_score_correction_bias"),
)

_SDAR = {"block_size": 4, "mask_token_id": 151669}

PRESETS = {
    # SDAR (arXiv 2510.06303) and TraDo, which is trained from it
    "sdar": Preset(
        body="qwen3",
        adds=_SDAR | {"eos_token_id": 151643},
        renamed={},
        refused={"use_sliding_window": False},
        source="JetLM/SDAR-1.7B-Chat modeling_sdar.py, JetAstra/SDAR generate.py",
    ),
    # Fast-dLLM v2 (arXiv 2509.26328)
    "Fast_dLLM_Qwen": Preset(
        body="qwen2",
        adds={
            "block_size": 32,
            "sub_block_size": 8,
            "shifted_logits": True,
            "mask_token_id": 151665,
            "eos_token_id": 151645,
        },
        renamed={"bd_size": "block_size"},
        refused={"use_sliding_window": False},
        source="Efficient-Large-Model/Fast_dLLM_v2_7B modeling.py",
    ),
    # LLaDA 2.0 and 2.1 (inclusionAI); the token editing of 2.1 and the insertions of 2.2 are not decoded
    "llada2_moe": Preset(
        body="glm4_moe",
        adds={
            "block_size": 32,
            "mask_token_id": 156895,
            "eos_token_id": 156892,
            "unmask": "dynamic(threshold=0.95)",
            "use_qk_norm": True,
            "norm_topk_prob": True,
            "num_nextn_predict_layers": 0,
        },
        renamed={
            "num_experts": "n_routed_experts",
            "num_shared_experts": "n_shared_experts",
            "use_qkv_bias": "attention_bias",
        },
        refused={"use_bias": False, "use_qk_norm": True, "norm_topk_prob": True, "score_function": "sigmoid"},
        source="inclusionAI/dInfer modeling_llada2_moe.py",
        tensors=_unfused,
    ),
}
