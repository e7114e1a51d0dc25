"""Reads a GGUF file by way of transformers: weights dequantised into an ordinary model, and the tokenizer beside it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from nbkv.errors import LoadError, UnsupportedModel
from nbkv.models.pretrained.gguf_header import read_header

_NEEDED = ("gguf", "accelerate")  # transformers reads these files with both
_DENSE = ("F32", "F16", "BF16", "F64")


def check_packages(what: str) -> None:
    """Raise ``LoadError`` if a package that reading GGUF needs is not installed."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        message = f"{what}: reading a GGUF file needs {' and '.join(missing)}: pip install {' '.join(missing)}"
        raise LoadError(message)


def gguf_note(path: Path) -> str:
    """Return the note that says what the weights at ``path`` were; raises ``LoadError`` for what is no such file."""
    header = read_header(path)
    if int(header.entries.get("split.count") or 1) > 1:
        message = (
            f"{path.name!r} is one part of a split model (accepted: a whole one; llama-gguf-split --merge joins them)"
        )
        raise LoadError(message)
    check_packages(repr(path.name))
    from gguf import GGMLQuantizationType, LlamaFileType  # noqa: PLC0415  (an optional package)

    known = {kind.value: kind.name for kind in GGMLQuantizationType}
    names = [known.get(type_id, f"type {type_id}") for type_id in header.type_ids]
    packed = [name for name in names if name not in _DENSE]
    if not packed:
        return f"weights read from {names[0] if names else 'an empty'} GGUF"
    stated = {kind.value: kind.name for kind in LlamaFileType}.get(
        int(header.entries.get("general.file_type") or 0), ""
    )
    mostly = stated.removeprefix("MOSTLY_")
    return f"weights dequantised from {packed[0] if mostly in {'', 'GUESSED', 'ALL_F32', *_DENSE} else mostly} GGUF"


def read_weights(path: Path, kwargs: dict[str, Any]) -> PreTrainedModel:
    """Return the model at ``path`` with dense weights; ``kwargs`` are those of ``from_pretrained``.

    Raises ``UnsupportedModel`` where weights would stay packed: layers that unpack them at each use can neither be cast
    nor saved.
    """
    given, dequantize = kwargs.get("quantization_config"), getattr(transformers, "GgufConfig", None)
    if given is not None and not getattr(given, "dequantize", False):
        message = (
            f"{path.name!r}: packed weights cannot be served (leave quantization_config out: they are dequantised)"
        )
        raise UnsupportedModel(message)
    if dequantize is not None:  # older ones always dequantise
        kwargs = kwargs | {"quantization_config": dequantize(dequantize=True)}
    model: Any = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, **kwargs)
    values = [*model.parameters(), *model.buffers()]
    if any(value.dtype in {torch.uint8, torch.int8} for value in values):
        message = (
            f"{path.name!r}: transformers {transformers.__version__} keeps its weights packed; they cannot be served"
        )
        raise UnsupportedModel(message)
    return _plain(model)


def _plain(model: Any) -> PreTrainedModel:  # noqa: ANN401  (attributes that only quantised models have)
    """Let ``model`` forget that its weights were packed once, so that it is cast and saved like any other."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    plain: PreTrainedModel = model
    return plain


def read_tokenizer(path: Path, kwargs: dict[str, Any]) -> Any:  # noqa: ANN401  (tokenizers share no typed parent)
    """Return the tokenizer at ``path``, with its chat template if there is one."""
    return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, **kwargs)
