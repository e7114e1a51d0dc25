"""How the bundled block-diffusion reader is trained: ``tiny`` learns to fill masked tokens, in blocks of 4 and of 8.

Used by ``notebooks/train_diffuser.ipynb``; imported by nothing else, since it loads torch.
"""

from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Final

import torch
from transformers import AttentionInterface, PreTrainedModel

from nbkv.tasks.questions import ask, ask_everything
from nbkv.tasks.report import FEWEST, MOST, section
from nbkv.tasks.writer import CARRIED, HEADER, NoteLine
from nbkv.training.examples import BOS, EOS, SYSTEM, Encode, layout
from nbkv.training.masked_batches import IGNORED, MASK, Batch, BatchRow, NotesDrill, collate
from nbkv.training.reader import encoder, save_reader
from nbkv.training.trainer import Predictions, Stage, TrainingBudget, TrainingRun, is_word

BLOCKS: Final = (4, 8)
"""Block sizes the reader is trained with, one or the other per batch; the first is the one it is stored with."""

CURRICULUM: Final = (
    Stage("notes of 6", 6, 192, 16, 0.85),
    Stage("notes of 12", 12, 288, 12, 0.88),
    Stage("notes of 24", 24, 384, 9, 0.93),
    Stage("notes of 48", 48, 576, 6, 0.97),
    Stage("notes of 110", 110, 896, 4, 0.97),
    Stage("notes of 240", 240, 1536, 2, 0.97),
    Stage("notes of 460", 460, 2432, 1, 2.0),
)
"""As the reader's: goes on when the running accuracy passes `until`."""

_AT_LAST: Final = (0.0, 0.0, 0.0, 0.45, 0.3, 0.15, 0.1)

_COPIES: Final = 2
_LATER: Final = 0.25


def by_row(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float,
    **_: Any,  # noqa: ANN401  (drawn for others)
) -> tuple[torch.Tensor, None]:
    """Attention in bf16, one row of the batch after the other; ``attention_mask [B, 1, T, T]`` is added.

    With dense masks and gradients it takes less than half the time of the fused kernel on a CPU.
    """
    query, key, value = (part.bfloat16() for part in (query, key, value))
    with torch.autocast(query.device.type, enabled=False):
        rows = zip(query * scaling, key, value, attention_mask, strict=True)
        out = [torch.softmax(q @ k.mT + seen, -1) @ v for q, k, v, seen in rows]
    return torch.stack(out).transpose(1, 2), None


AttentionInterface.register("by_row", by_row)


def drill(rng: Random, encode: Encode, lines: int) -> NotesDrill:
    """Write notes of ``lines`` lines; ask all sections of carried lines, the longest first, then for every price."""
    notes = _notes(rng, lines)
    reports = [ask_everything(rng, told) for told in sorted(_sections(notes), key=len, reverse=True)]
    prices = [ask(rng, line) for line in notes if line.answerable]
    rng.shuffle(prices)
    begin = SYSTEM if rng.random() < 0.1 else ""  # noqa: PLR2004
    return NotesDrill(
        [BOS, *encode(begin + "".join(line.text for line in notes))],
        [(encode(question), [*encode(answer), EOS]) for question, answer in [*reports, *prices]],
    )


def _sections(notes: list[NoteLine]) -> list[list[NoteLine]]:
    # A section that holds anything but carried lines is no report's.
    heads = [at for at, line in enumerate(notes) if line.form == HEADER]
    spans = [notes[at:end] for at, end in pairwise([*heads, len(notes)])]
    return [span for span in spans if span[1:] and all(line.form == CARRIED for line in span[1:])]


def _notes(rng: Random, lines: int) -> list[NoteLine]:
    # Mostly with a section as long as those of `report`: long answers are learned from long answers.
    if lines < 3 or rng.random() < 0.3:  # noqa: PLR2004
        return layout(rng, lines)[0]
    size = rng.randint(min(FEWEST, lines // 2), min(MOST, lines - 1))
    head = rng.randrange(lines - size)
    return section(rng, lines, range(head, head + size + 1), rng.randint(2, max(2, lines // 4)))


def batch_row(rng: Random, encode: Encode, stage: Stage, block: int) -> BatchRow:
    """Write one row of a batch: notes and as many questions about them as the stage's length holds."""
    low = 2 if rng.random() < 0.15 else max(2, stage.lines // 2)  # noqa: PLR2004
    made = drill(rng, encode, rng.randint(low, stage.lines))
    written = BatchRow(made.notes, block)
    for question, answer in made.asked:
        written.ask(rng, question, answer, _COPIES, stage.length)
    return written


class Diffuser(TrainingRun):
    """The block-diffusion reader's run: ``for line in diffuser.run(): ...`` gives a record now and then."""

    curriculum: ClassVar = CURRICULUM
    name: ClassVar[str] = "diffuse"
    review: ClassVar[int] = 3

    def __init__(
        self,
        folder: Path,
        model: PreTrainedModel,
        *,
        minutes: float,
        steps: int | None = None,
        seed: int = 0,
        device: str = "cpu",
        peak: float = 1.2e-3,
    ) -> None:
        """Take up the run kept in ``folder``, or begin one of ``minutes`` of training in all, or of ``steps`` if given.

        ``model`` is an autoregressive reader, whose weights are trained in place.
        """
        super().__init__(folder, model.float(), TrainingBudget(minutes, steps), seed, device, peak)
        self.encode = encoder()
        if device == "cpu":
            model.set_attn_implementation("by_row")

    def _stage(self) -> int:
        # Once the longest notes are read, most batches are of short ones: long answers get exact there at less cost.
        if self.progress.stage == len(CURRICULUM) - 1:
            return self.rng.choices(range(len(CURRICULUM)), _AT_LAST)[0]
        return super()._stage()

    def draw(self, at: int) -> Batch:
        """Write a batch of stage ``at`` in one block size."""
        stage, block = CURRICULUM[at], self.rng.choice(BLOCKS)
        rows = [batch_row(self.rng, self.encode, stage, block) for _ in range(stage.batch)]
        return collate(rows, max(len(row.ids) for row in rows))

    def predictions(self, batch: Batch) -> Predictions:
        """Predict the masked tokens, each from its own block and the blocks before it."""
        batch = batch.to(self.device)
        with torch.autocast(self.device, torch.bfloat16):
            hidden = self.model.model(
                input_ids=batch.ids,
                position_ids=batch.positions,
                attention_mask=self._seen(batch.mask),
                use_cache=False,
            ).last_hidden_state
        return fill(self.model.lm_head, hidden, batch)

    def _seen(self, mask: torch.Tensor) -> torch.Tensor:
        if self.device != "cpu":
            return mask
        return torch.zeros(mask.shape, dtype=torch.bfloat16).masked_fill_(~mask, float("-inf"))


def fill(head: torch.nn.Module, hidden: torch.Tensor, batch: Batch) -> Predictions:
    """Predict the masked tokens from the hidden states ``hidden [B, T, width]`` at their own positions.

    A masked token behind a masked one is often anybody's guess, and decoding does not fill it yet: it counts less.
    """
    asked = batch.targets != IGNORED
    wanted, ready = batch.targets[asked], batch.ready[asked]
    return Predictions(head(hidden[asked].float()), wanted, torch.where(ready, 1.0, _LATER), ready & is_word(wanted))


def save_diffuser(model: PreTrainedModel, folder: Path) -> None:
    """Write the model in bf16 and its tokenizer; its config says what decoding in blocks has to know."""
    config: Any = model.config
    config.block_size, config.block_sizes = BLOCKS[0], list(BLOCKS)
    config.mask_token_id, config.nbkv_decoding = MASK, "block_diffusion"
    save_reader(model, folder)
