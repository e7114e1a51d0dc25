"""Reads a checkpoint that a preset knows into the native transformers model that computes the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from nbkv.models.diffusion.presets import PRESETS

_OF_THE_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_OF_REMOTE_CODE = ("code_revision", "trust_remote_code")


def native(source: str, kwargs: dict[str, Any]) -> PreTrainedModel | None:
    """Return the model at ``source`` (a folder or hub id) if a preset knows its type, else None.

    ``kwargs`` are those of ``from_pretrained``; a checkpoint's own code is not run, whatever they say.
    """
    hub = {key: value for key, value in kwargs.items() if key in _OF_THE_HUB}
    try:
        told, _ = PretrainedConfig.get_config_dict(source, **hub)
    except OSError:  # an adapter's folder, or nothing at all: the usual way reads it or says why not
        return None
    preset = PRESETS.get(told.get("model_type", ""))
    if preset is None:
        return None
    entries = preset.config(told)
    config = AutoConfig.for_model(preset.body, **entries)
    asked = {key: value for key, value in kwargs.items() if key not in _OF_REMOTE_CODE} | {"config": config}
    if preset.tensors is None:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source, **asked)
    else:
        folder = _folder(source, hub)
        weights = dict(preset.tensors(_tensors(folder), entries))
        asked = {key: value for key, value in asked.items() if key not in _OF_THE_HUB}
        kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        model = kind.from_pretrained(None, state_dict=weights, **asked)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = entries["eos_token_id"]
    return model


def _folder(source: str, hub: dict[str, Any]) -> Path:
    if Path(source).is_dir():
        return Path(source)
    return Path(snapshot_download(source, allow_patterns=["*.json", "*.safetensors"], **hub))


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights in ``folder``, each read when it is asked for."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        message = f"no *.safetensors in {folder}"
        raise OSError(message)
    for file in files:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  (it is no mapping)
                yield name, weights.get_tensor(name)
