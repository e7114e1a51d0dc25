"""How the bundled reader is trained: questions about ever longer notes, from weights with look-ups laid out.

Used by `notebooks/train_reader.ipynb`; needs torch and transformers, which are imported late.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from nbkv.tasks.beginning import seed_lookup
from nbkv.tasks.lessons import Encode, Lesson, examination
from nbkv.tasks.tokenizer import CONTEXT, PIECES, build_tokenizer
from nbkv.tasks.vocabulary import PUNCTUATION, SPECIAL, tokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# ruff: noqa: PLC0415  (torch is imported late: tasks are usable without it)


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the curriculum: `batch` rows of `length` tokens, notes of up to `lines` lines."""

    name: str
    lines: int
    length: int
    batch: int
    until: float


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


@dataclass(slots=True)
class Progress:
    """Where a run stands; kept beside the weights, so that it can be resumed."""

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    accuracy: float = 0.0


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


def _groups(model: Any, peak: float) -> list[dict[str, Any]]:  # noqa: ANN401
    # Random word vectors are good keys from the start; learning them slowly keeps them apart while
    # the circuits that compare and copy them appear.
    words = model.model.embed_tokens.weight
    rest = [parameter for parameter in model.parameters() if parameter is not words]
    return [
        {"params": rest, "lr": peak, "share": 1.0},
        {"params": [words], "lr": peak, "share": 0.1},
    ]


def encoder() -> Encode:
    """Give a quick form of the tokenizer: ids of a text in known words, without the start token."""
    import re

    index = {token: number for number, token in enumerate(tokens())}
    pieces = re.compile(PIECES)
    return lambda text: [index[piece] for piece in pieces.findall(text)]


def lessons(rng: Random, encode: Encode, progress: Progress) -> tuple[Stage, list[Lesson]]:
    """Draw the next batch; in later stages two in five batches repeat an earlier one."""
    at = progress.stage
    if at and rng.random() < 0.4:  # noqa: PLR2004
        at = rng.randrange(at)
    stage = CURRICULUM[at]
    return stage, [_lesson(rng, encode, stage) for _ in range(stage.batch)]


def _lesson(rng: Random, encode: Encode, stage: Stage) -> Lesson:
    low = 2 if rng.random() < 0.15 else max(2, stage.lines // 2)  # noqa: PLR2004
    return examination(rng, encode, rng.randint(low, stage.lines), stage.length)


def tensors(batch: list[Lesson], length: int) -> "tuple[torch.Tensor, torch.Tensor]":
    """`ids [B, length]`, padded on the right, and `asked [B, length]`: the tokens to predict."""
    import torch

    pad = SPECIAL.index("<pad>")
    ids = torch.full((len(batch), length), pad)
    asked = torch.zeros((len(batch), length), dtype=torch.bool)
    for row, lesson in enumerate(batch):
        size = min(length, len(lesson.ids))
        ids[row, :size] = torch.tensor(lesson.ids[:size])
        asked[row, :size] = torch.tensor([bool(kind) for kind in lesson.kinds[:size]])
    return ids, asked


def rate(fraction: float, step: int, peak: float) -> float:
    """Learning rate: 100 steps up, flat, and down to zero over the last 40 % of the time."""
    return peak * min(1.0, (step + 1) / 100) * min(1.0, max(0.0, 1 - fraction) / 0.4)


class Trainer:
    """One run that can stop and go on: `for line in trainer.run(): ...` gives a record now and then."""

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

        self.folder, self.minutes, self.peak, self.device = folder, minutes, peak, device
        model: Any = new_model(seed)
        self.model = model.to(device)
        self.optimizer = torch.optim.AdamW(
            _groups(self.model, peak), peak, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self.progress = Progress()
        if (folder / "run.pt").exists():
            kept = torch.load(folder / "run.pt", map_location=device, weights_only=True)
            self.model.load_state_dict(kept["model"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.progress = Progress(**json.loads((folder / "run.json").read_text()))
        self.rng = Random(f"train {seed} {self.progress.step}")
        self.encode = encoder()
        body: Any = self.model.model
        self.body: Callable[..., Any] = torch.compile(body, dynamic=False) if compiled else body

    def run(self, every: int = 50) -> Iterator[dict[str, Any]]:
        """Train until the time is over; yields a record and keeps the run every `every` steps."""
        while self.progress.seconds < 60 * self.minutes:
            started = time.perf_counter()
            stage, batch = lessons(self.rng, self.encode, self.progress)
            loss, right = self.step(stage, batch)
            self.progress.seconds += min(20.0, time.perf_counter() - started)
            self._advance(stage, right)
            if self.progress.step % every == 0:
                self.keep()
                yield {**asdict(self.progress), "name": stage.name, "loss": loss, "right": right}
        self.keep()

    def step(self, stage: Stage, batch: list[Lesson]) -> tuple[float, float]:
        """One optimiser step; returns the loss and the share of right words and numbers."""
        import torch

        ids, asked = (tensor.to(self.device) for tensor in tensors(batch, stage.length))
        fraction = self.progress.seconds / (60 * self.minutes)
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * rate(fraction, self.progress.step, self.peak)
        with torch.autocast(self.device, torch.bfloat16, enabled=stage.length >= AUTOCAST):
            hidden = self.body(input_ids=ids, use_cache=False).last_hidden_state
        logits = self.model.lm_head(hidden[:, :-1][asked[:, 1:]].float())
        wanted = ids[:, 1:][asked[:, 1:]]
        loss = torch.nn.functional.cross_entropy(logits, wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        # Full stops and end tokens are always right: they would hide a reader that guesses.
        told = wanted >= len(SPECIAL) + len(PUNCTUATION)
        return loss.item(), (logits.argmax(-1) == wanted)[told].float().mean().item()

    def _advance(self, stage: Stage, right: float) -> None:
        progress = self.progress
        progress.step += 1
        if stage is not CURRICULUM[progress.stage]:
            return
        progress.accuracy += 0.1 * (right - progress.accuracy)
        if progress.accuracy > stage.until:
            progress.stage += 1
            progress.accuracy = 0.0

    def keep(self) -> None:
        """Write weights, optimiser and progress to the folder."""
        import torch

        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(kept, self.folder / "run.pt")
        (self.folder / "run.json").write_text(json.dumps(asdict(self.progress)))


AUTOCAST: Final = 128


def save_reader(model: "PreTrainedModel", folder: Path) -> None:
    """Write the model in bf16 and its tokenizer as a plain Hugging Face folder."""
    import copy

    import torch

    model.generation_config.do_sample = False
    stored: Any = copy.deepcopy(model)
    stored.to("cpu", torch.bfloat16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
