"""One training run that can stop and go on: the curriculum, the rate, the optimiser and what is kept on disk."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from nbkv.tasks.vocabulary import PUNCTUATION, SPECIAL

if TYPE_CHECKING:
    import torch

# ruff: noqa: PLC0415  (torch is imported late: tasks are usable without it)


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the curriculum: `batch` rows of `length` tokens, notes of up to `lines` lines."""

    name: str
    lines: int
    length: int
    batch: int
    until: float


@dataclass(slots=True)
class Progress:
    """Where a run stands; kept beside the weights, so that it can be resumed."""

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    accuracy: float = 0.0


class Predictions(NamedTuple):
    """Predictions at the tokens asked for: `logits [N, V]`, the right tokens `[N]`, weights of the loss `[N]`.

    `counted [N]`: those by which the curriculum judges; words and numbers only, as full stops and end tokens are always
    right and would hide a model that guesses.
    """

    logits: "torch.Tensor"
    wanted: "torch.Tensor"
    weights: "torch.Tensor"
    counted: "torch.Tensor"


def is_word(wanted: "torch.Tensor") -> "torch.Tensor":
    """Return bool `[N]`: which tokens are words and numbers, not special tokens or punctuation."""
    return wanted >= len(SPECIAL) + len(PUNCTUATION)


def rate(fraction: float, step: int, peak: float) -> float:
    """Learning rate: 100 steps up, flat, and down to zero over the last 40 % of the time."""
    return peak * min(1.0, (step + 1) / 100) * min(1.0, max(0.0, 1 - fraction) / 0.4)


class TrainingRun(ABC):
    """A run on `curriculum`: `for line in run.run(): ...` gives a record now and then.

    Two in five batches repeat one of the last `review` stages.
    """

    curriculum: ClassVar[tuple[Stage, ...]]
    name: ClassVar[str]
    review: ClassVar[int]

    def __init__(  # noqa: PLR0917
        self,
        folder: Path,
        model: Any,  # noqa: ANN401  (modules are typed in part)
        minutes: float,
        seed: int,
        device: str,
        peak: float,
    ) -> None:
        """Take up the run kept in `folder`, or begin one of `minutes` of training in all from `model`."""
        import torch

        self.folder, self.minutes, self.peak, self.device = folder, minutes, peak, device
        self.model: Any = model.to(device)
        self.optimizer = torch.optim.AdamW(
            _groups(self.model, peak), peak, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self.progress = Progress()
        if (folder / "run.pt").exists():
            kept = torch.load(folder / "run.pt", map_location=device, weights_only=True)
            self.model.load_state_dict(kept["model"])
            self.optimizer.load_state_dict(kept["optimizer"])
            self.progress = Progress(**json.loads((folder / "run.json").read_text()))
        self.rng = Random(f"{self.name} {seed} {self.progress.step}")

    @abstractmethod
    def draw(self, at: int) -> Any:  # noqa: ANN401
        """Draw a batch of stage `at` of the curriculum."""

    @abstractmethod
    def predictions(self, batch: Any) -> Predictions:  # noqa: ANN401
        """Run the model on a batch."""

    def run(self, every: int = 50) -> Iterator[dict[str, Any]]:
        """Train until the time is over; yields a record and keeps the run every `every` steps."""
        while self.progress.seconds < 60 * self.minutes:
            started = time.perf_counter()
            at = self._stage()
            loss, right = self.step(self.draw(at))
            self.progress.seconds += min(20.0, time.perf_counter() - started)
            self._advance(at, right)
            if self.progress.step % every == 0:
                self.keep()
                yield {**asdict(self.progress), "name": self.curriculum[at].name, "loss": loss, "right": right}
        self.keep()

    def _stage(self) -> int:
        at = self.progress.stage
        if at and self.rng.random() < 0.4:  # noqa: PLR2004
            return self.rng.randrange(max(0, at - self.review), at)
        return at

    def step(self, batch: Any) -> tuple[float, float]:  # noqa: ANN401
        """One optimiser step; returns the loss and the share of right words and numbers."""
        import torch

        fraction = self.progress.seconds / (60 * self.minutes)
        for group in self.optimizer.param_groups:
            group["lr"] = group["share"] * rate(fraction, self.progress.step, self.peak)
        logits, wanted, weights, counted = self.predictions(batch)
        losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item(), (logits.argmax(-1) == wanted)[counted].float().mean().item()

    def _advance(self, at: int, right: float) -> None:
        progress = self.progress
        progress.step += 1
        if at != progress.stage:
            return
        progress.accuracy += 0.1 * (right - progress.accuracy)
        if progress.accuracy > self.curriculum[at].until:
            progress.stage += 1
            progress.accuracy = 0.0

    def keep(self) -> None:
        """Write weights, optimiser and progress to the folder."""
        import torch

        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(kept, self.folder / "run.pt")
        (self.folder / "run.json").write_text(json.dumps(asdict(self.progress)))


def _groups(model: Any, peak: float) -> list[dict[str, Any]]:  # noqa: ANN401
    # Random word vectors are good keys from the start; learning them slowly keeps them apart while
    # the circuits that compare and copy them appear.
    words = model.model.embed_tokens.weight
    rest = [parameter for parameter in model.parameters() if parameter is not words]
    return [
        {"params": rest, "lr": peak, "share": 1.0},
        {"params": [words], "lr": peak, "share": 0.1},
    ]
