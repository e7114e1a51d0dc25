from __future__ import annotations

import random

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

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

FAMILIES = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _COMMON),
    "mistral": ("MistralForCausalLM", "MistralConfig", _COMMON | _WINDOW),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _COMMON),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _COMMON),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", _COMMON | _WINDOW),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", _COMMON | _WINDOW | {"sliding_window_pattern": 2}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _COMMON),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT2 | {"bos_token_id": 0, "eos_token_id": 1}),
}


def make_model(family: str, seed: int = 0, **changes: object) -> transformers.PreTrainedModel:
    """Return a small random model of ``family`` whose logits are spread like a trained model's."""
    model_class, config_class, options = FAMILIES[family]
    torch.manual_seed(seed)
    config = getattr(transformers, config_class)(**(options | changes))
    model = getattr(transformers, model_class)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name and "wte" not in name:
                parameter.mul_(3.0)
    model.generation_config.eos_token_id = None
    return model


def make_tokenizer(*, bos: bool = True, template: str | None = None) -> transformers.PreTrainedTokenizerFast:
    """Return a word-level tokenizer of the words w0 … w190."""
    words = ["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(191)), *".,?:"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = template
    return tokenizer


def words(n: int, seed: int = 0) -> str:
    """Return ``n`` words the tokenizer knows, with a space before each."""
    draw = random.Random(seed)
    return "".join(f" w{draw.randrange(191)}" for _ in range(n))


@pytest.fixture(autouse=True)
def _threads():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="session")
def model_of():
    """Random models by family, made once: read only."""
    made: dict[str, transformers.PreTrainedModel] = {}

    def get(family: str) -> transformers.PreTrainedModel:
        if family not in made:
            made[family] = make_model(family)
        return made[family]

    return get


@pytest.fixture
def session_of(model_of, tokenizer):
    """Sessions on random models by family; closed after the test."""
    import nbkv

    opened: list[nbkv.Session] = []

    def open_session(family: str = "llama", **options: object) -> nbkv.Session:
        opened.append(nbkv.load(model_of(family), tokenizer=tokenizer, **options))
        return opened[-1]

    yield open_session
    for session in opened:
        session.close()


@pytest.fixture(name="words")
def _words():
    return words


@pytest.fixture(name="make_model")
def _make_model():
    return make_model


@pytest.fixture(name="make_tokenizer")
def _make_tokenizer():
    return make_tokenizer


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return request.param
