"""The models benchmarks run on: random weights of a stated shape, or the bundled reader; one word is one token."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from nbkv.errors import UnknownName, closest

TINY = "tiny"
SHAPES: dict[str, dict[str, int]] = {
    "s06": {"layers": 28, "width": 1024, "heads": 16, "kv_heads": 8, "head": 128, "ff": 3072, "vocab": 8192},
    "s01": {"layers": 30, "width": 576, "heads": 9, "kv_heads": 3, "head": 64, "ff": 1536, "vocab": 8192},
    "far": {"layers": 4, "width": 256, "heads": 8, "kv_heads": 8, "head": 64, "ff": 512, "vocab": 512},
    "s06-mha": {"layers": 28, "width": 1024, "heads": 8, "kv_heads": 8, "head": 128, "ff": 3072, "vocab": 8192},
    "s06-gqa": {"layers": 28, "width": 1024, "heads": 16, "kv_heads": 2, "head": 128, "ff": 3072, "vocab": 8192},
    "smollm2": {"layers": 30, "width": 576, "heads": 9, "kv_heads": 3, "head": 64, "ff": 1536, "vocab": 49_152},
    "mini": {"layers": 4, "width": 64, "heads": 4, "kv_heads": 2, "head": 16, "ff": 128, "vocab": 512},
}


@dataclass(frozen=True, eq=False)
class Bench:
    """A model to measure and what stands in its regime."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    shape: str

    @property
    def vocab(self) -> int:
        """Return the size of the vocabulary."""
        return int(self.model.config.vocab_size)

    def ids(self, n: int, seed: int) -> list[int]:
        """Return ``n`` random token ids."""
        return [int(token) for token in np.random.default_rng(seed).integers(0, self.vocab, n)]

    def text(self, ids: list[int]) -> str:
        """Return the text that is tokenised to ``ids``."""
        return " ".join(f"w{token}" for token in ids)

    def regime(self, **more: Any) -> dict[str, Any]:  # noqa: ANN401  (whatever else was held fixed)
        """Return what was held fixed: model, dtype, device, threads, batch and what the benchmark adds."""
        weight = next(self.model.parameters())
        cuda = weight.device.type == "cuda"
        return {
            "shape": self.shape,
            "dtype": str(weight.dtype).removeprefix("torch."),
            "device": torch.cuda.get_device_name(weight.device) if cuda else platform.machine(),
            "threads": torch.get_num_threads(),
            "batch": 1,
            **more,
        }


def make(shape: str, dtype: torch.dtype) -> Bench:
    """Return the model of ``shape`` in ``dtype``, on a GPU where there is one, made to decode without ever stopping."""
    known = [*SHAPES, TINY]
    if shape not in known:
        message = f"unknown shape {shape!r}{closest(shape, known)} (known: {', '.join(known)})"
        raise UnknownName(message)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = _bundled() if shape == TINY else _random(**SHAPES[shape])
    model = model.to(device=device, dtype=dtype).eval()
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    return Bench(model, _words(int(model.config.vocab_size)), shape)


def half() -> torch.dtype:
    """Return bfloat16 where this machine computes in it, else float32."""
    quick = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001  (no public one)
    return torch.bfloat16 if quick else torch.float32


def _random(*, layers: int, width: int, heads: int, kv_heads: int, head: int, ff: int, vocab: int) -> Any:  # noqa: ANN401  (as transformers has it)
    config = Qwen3Config(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        intermediate_size=ff,
        vocab_size=vocab,
        max_position_embeddings=32_768,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        # Plain random weights leave nearly all tokens equally likely, so that rounding in half precision would decide
        # the answer and outputs could not be compared; some words are common, as in any language.
        with torch.no_grad():
            model.lm_head.weight.mul_(torch.exp(0.5 * torch.randn(vocab, 1)))
        return model


def _bundled() -> Any:  # noqa: ANN401  (as above)
    from nbkv.models.loading import load_model  # noqa: PLC0415  (only this shape is loaded)

    return load_model(TINY).adapter.model


def _words(vocab: int) -> PreTrainedTokenizerFast:
    words = {f"w{token}": token for token in range(vocab)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))  # noqa: S106  (a token of text)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
