"""Where a model is: the device that takes its inputs, and weights that lie elsewhere until they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def input_device(model: Any) -> torch.device:  # noqa: ANN401  (a PreTrainedModel, or a PEFT wrapper around one)
    """Return the device on which ``model`` wants token ids: where its embedding runs, not where its weight is kept."""
    embedding = model.get_input_embeddings()
    return run_device(embedding, embedding.weight.device)


def run_device(module: nn.Module, otherwise: torch.device) -> torch.device:
    """Return the device that ``module`` runs on; ``otherwise`` if neither a device map nor a parameter tells."""
    hook = getattr(module, "_hf_hook", None)  # accelerate's, set by a device map
    told = (getattr(each, "execution_device", None) for each in (hook, *getattr(hook, "hooks", ())))
    here = (parameter.device for parameter in module.parameters() if not parameter.is_meta)
    return torch.device(next((place for place in (*told, *here) if place is not None), otherwise))


def compute_dtype(model: Any) -> torch.dtype:  # noqa: ANN401  (transformers and accelerate leave these untyped)
    """Return the dtype of the hidden states, which quantised weights do not tell: that of the embedding."""
    kinds = (model.get_input_embeddings().weight.dtype, *(p.dtype for p in model.parameters()))
    return next((kind for kind in kinds if kind.is_floating_point and kind.itemsize > 1), torch.float32)


def offloaded(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and value of every parameter that accelerate keeps in host memory or on disk, one module at a time."""
    for prefix, module, hook in _away(model):
        hook.pre_forward(module)
        try:
            yield from _held(prefix, module, hook)
        finally:
            hook.post_forward(module, None)


def without_data(model: nn.Module) -> list[str]:
    """Return the names of parameters whose values are neither here nor anywhere else."""
    kept = {name for away in _away(model) for name, _ in _held(*away)}
    here = model.named_parameters(remove_duplicate=False)
    return [name for name, parameter in here if parameter.is_meta and name not in kept]


def _away(model: nn.Module) -> Iterator[tuple[str, nn.Module, Any]]:
    """Yield name, module and hook wherever one of accelerate's hooks fetches parameters for the length of a call."""
    for prefix, module in model.named_modules():
        hook = getattr(module, "_hf_hook", None)
        for each in (hook, *getattr(hook, "hooks", ())):
            if getattr(each, "offload", False):
                yield prefix, module, each


def _held(prefix: str, module: nn.Module, hook: Any) -> Iterator[tuple[str, torch.Tensor]]:  # noqa: ANN401  (transformers and accelerate leave these untyped)
    return module.named_parameters(prefix, recurse=hook.place_submodules, remove_duplicate=False)
