"""Where a model is: the device that takes its inputs, and weights that lie elsewhere until they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def input_device(model: Any) -> torch.device:  # noqa: ANN401  (a PreTrainedModel, or a PEFT wrapper around one)
    """Return the device on which ``model`` wants token ids: where its embedding runs, not where its weight is kept."""
    embedding: Any = model.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)  # accelerate's, set by a device_map
    for each in (hook, *getattr(hook, "hooks", ())):
        place = getattr(each, "execution_device", None)
        if place is not None:
            return torch.device(place)
    return torch.device(embedding.weight.device)


def compute_dtype(model: Any) -> torch.dtype:  # noqa: ANN401
    """Return the dtype of the hidden states, which quantised weights do not tell: that of the embedding."""
    kinds = (model.get_input_embeddings().weight.dtype, *(p.dtype for p in model.parameters()))
    return next((kind for kind in kinds if kind.is_floating_point and kind.itemsize > 1), torch.float32)


def offloaded(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and value of every parameter that accelerate keeps in host memory or on disk, one module at a time."""
    if not any(hasattr(module, "_hf_hook") for module in model.modules()):
        return
    from accelerate.utils import align_module_device, has_offloaded_params  # noqa: PLC0415  (there if it set hooks)

    for prefix, module in model.named_modules():
        if has_offloaded_params(module):
            inside = module._hf_hook.place_submodules  # noqa: SLF001  (such a module has a hook)
            with align_module_device(module, torch.device("cpu")):
                yield from module.named_parameters(prefix, recurse=inside, remove_duplicate=False)
