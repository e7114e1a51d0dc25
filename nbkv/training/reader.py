"""How the bundled reader is trained: questions about ever longer notes, from weights with look-ups laid out.

Used by `notebooks/train_reader.ipynb`; needs torch and transformers, which are imported late.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from nbkv.tasks.tokenizer import CONTEXT, PIECES, build_tokenizer
from nbkv.tasks.vocabulary import SPECIAL, tokens
from nbkv.training.examples import Encode, TrainingExample, write_example
from nbkv.training.initial_weights import seed_lookup
from nbkv.training.trainer import Predictions, Stage, TrainingRun, is_word

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# ruff: noqa: PLC0415  (torch is imported late: tasks are usable without it)


CURRICULUM: Final = (
    Stage("notes of 6", 6, 72, 48, 0.9),
    Stage("notes of 12", 12, 136, 24, 0.9),
    Stage("notes of 24", 24, 256, 14, 0.92),
    Stage("notes of 48", 48, 480, 8, 0.94),
    Stage("notes of 110", 110, 960, 4, 0.92),
    Stage("notes of 240", 240, 1664, 3, 0.92),
    Stage("notes of 460", 460, 2432, 2, 2.0),
)
"""Goes on to the next stage when the running accuracy passes `until`; never leaves the last."""


def new_model(seed: int) -> "PreTrainedModel":
    """Make an untrained reader: Qwen3 architecture, 8 layers, width 128, 2.4 million parameters."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokens()),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        initializer_range=0.06,
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("</s>"),
        pad_token_id=SPECIAL.index("<pad>"),
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        seed_lookup(model, tokens().index("Pay"))
    return model


def encoder() -> Encode:
    """Give a quick form of the tokenizer: ids of a text in known words, without the start token."""
    import re

    index = {token: number for number, token in enumerate(tokens())}
    pieces = re.compile(PIECES)
    return lambda text: [index[piece] for piece in pieces.findall(text)]


def _example(rng: Random, encode: Encode, stage: Stage) -> TrainingExample:
    low = 2 if rng.random() < 0.15 else max(2, stage.lines // 2)  # noqa: PLR2004
    return write_example(rng, encode, rng.randint(low, stage.lines), stage.length)


def tensors(batch: list[TrainingExample], length: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """`ids [B, length]`, padded on the right, and `asked [B, length]`: the tokens to predict."""
    import torch

    pad = SPECIAL.index("<pad>")
    ids = torch.full((len(batch), length), pad)
    asked = torch.zeros((len(batch), length), dtype=torch.bool)
    for row, example in enumerate(batch):
        size = min(length, len(example.ids))
        ids[row, :size] = torch.tensor(example.ids[:size])
        asked[row, :size] = torch.tensor([bool(kind) for kind in example.kinds[:size]])
    return ids, asked


class Trainer(TrainingRun):
    """The reader's run: `for line in trainer.run(): ...` gives a record now and then."""

    curriculum: ClassVar = CURRICULUM
    name: ClassVar[str] = "train"
    review: ClassVar[int] = len(CURRICULUM)

    def __init__(
        self,
        folder: Path,
        *,
        minutes: float,
        seed: int = 0,
        device: str = "cpu",
        peak: float = 1.5e-3,
        compiled: bool = True,
    ) -> None:
        """Take up the run kept in `folder`, or begin one that lasts `minutes` of training in all."""
        import torch

        super().__init__(folder, new_model(seed), minutes, seed, device, peak)
        self.encode = encoder()
        body: Any = self.model.model
        self.body: Callable[..., Any] = torch.compile(body, dynamic=False) if compiled else body

    def draw(self, at: int) -> "tuple[torch.Tensor, torch.Tensor]":
        """Draw examples of stage `at`; gives them as `tensors` does."""
        stage = CURRICULUM[at]
        return tensors([_example(self.rng, self.encode, stage) for _ in range(stage.batch)], stage.length)

    def predictions(self, batch: "tuple[torch.Tensor, torch.Tensor]") -> Predictions:
        """Predict the tokens that are asked for, each from those before it."""
        import torch

        ids, asked = (tensor.to(self.device) for tensor in batch)
        with torch.autocast(self.device, torch.bfloat16, enabled=ids.shape[1] >= AUTOCAST):
            hidden = self.body(input_ids=ids, use_cache=False).last_hidden_state
        wanted = ids[:, 1:][asked[:, 1:]]
        logits = self.model.lm_head(hidden[:, :-1][asked[:, 1:]].float())
        return Predictions(logits, wanted, torch.ones_like(wanted, dtype=logits.dtype), is_word(wanted))


AUTOCAST: Final = 128


def save_reader(model: "PreTrainedModel", folder: Path) -> None:
    """Write the model in bf16 and its tokenizer as a plain Hugging Face folder."""
    import copy

    import torch

    model.generation_config.do_sample = False
    stored: Any = copy.deepcopy(model)
    stored.to("cpu", torch.bfloat16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
