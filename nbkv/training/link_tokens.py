"""How link tokens are trained: their embeddings alone, on questions about chunks that never saw each other.

Used by ``notebooks/train_links.ipynb``; imported by nothing else, since it loads torch. What a row
sees and where it stands is what ``kvlink`` does at inference: chunks are encoded behind their sink and
frozen, link tokens see all that comes before them, questions see everything.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple, Protocol

import torch
from transformers import DynamicCache

from nbkv.errors import UnsupportedModel
from nbkv.models.adapter import ModelAdapter
from nbkv.models.link_tokens import Links, write_links
from nbkv.prompts.tokenizer import Codec
from nbkv.result import Chunk
from nbkv.tasks.ledger import carried_notes
from nbkv.tasks.questions import ask
from nbkv.tasks.writer import cut
from nbkv.training.trainer import TrainingBudget, rate

_IGNORED: Final = -100
_MOST_LINES: Final = 56
_CARRIED: Final = 0.75


@dataclass(frozen=True, slots=True)
class Exercise:
    """Chunks as token ids, and ``(question, answer)`` pairs about them, each asked of the chunks alone."""

    chunks: list[list[int]]
    asked: list[tuple[list[int], list[int]]]


def exercise(rng: Random, encode: Any, end: int, chunks: int, questions: int) -> Exercise:  # noqa: ANN401  (text to ids)
    """Write a ledger of ``chunks`` chunks; three in four questions need what an earlier chunk said.

    ``encode`` gives the token ids of a text, ``end`` is the token that ends an answer.
    """
    length = rng.randint(3, max(3, min(8, _MOST_LINES // chunks)))
    notes, _ = carried_notes(rng, chunks, rng.randint(1, min(3, chunks - 1)), length)
    known = [index for index, line in enumerate(notes) if line.answerable]
    carried = [i for i in known if (given := notes[i].given) is not None and given // length < i // length]
    local = [index for index in known if index not in carried]
    picked = [rng.choice(carried if rng.random() < _CARRIED or not local else local) for _ in range(questions)]
    pairs = [ask(rng, notes[index]) for index in picked]
    return Exercise(
        [encode(text) for text in cut(notes, length)],
        [(encode(question), [*encode(answer), end]) for question, answer in pairs],
    )


class Trained(Protocol):
    """What link tokens are trained for: a session's model."""

    @property
    def adapter(self) -> ModelAdapter:
        """Return the model."""

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401  (a transformers tokenizer)
        """Return its tokenizer."""

    def chunk(self, text: str, *, name: str | None = None) -> Chunk:
        """Encode ``text`` as this session encodes chunks."""


class Linker:
    """One training run on a session's model: ``for line in linker.run(): ...`` gives a record now and then."""

    def __init__(
        self,
        session: Trained,
        *,
        links: int = 5,
        slots: int = 12,
        minutes: float = 3.0,
        steps: int | None = None,
        seed: int = 0,
        peak: float = 1e-2,
        batch: int = 8,
        questions: int = 6,
    ) -> None:
        """Begin with words drawn from the model's vocabulary; its own weights stay as they are.

        The run lasts ``minutes`` of training, or ``steps`` optimiser steps if given.
        """
        self.session, self.model, self.peak = session, session.adapter.model, peak
        self.budget = TrainingBudget(minutes, steps)
        self.batch, self.questions, self.rng = batch, questions, Random(f"links {seed}")
        if len(set(session.adapter.capabilities.windows)) > 1 or session.adapter.capabilities.windows[0]:
            message = f"{session.adapter.name} has sliding windows; link tokens are trained on full attention only"
            raise UnsupportedModel(message)
        self.codec = Codec(session.tokenizer)
        self.front = self.codec.bos_ids
        self.sink = session.chunk("A", name="link training").sink  # behind what this session encodes chunks
        self.end = int(session.tokenizer.eos_token_id)
        words = self.model.get_input_embeddings().weight.detach().float()  # type: ignore[operator]  # a Module to mypy
        drawn = torch.randint(len(words), (links,), generator=torch.Generator().manual_seed(seed))
        # What all slots share learns from every chunk, what is a slot's own only from its chunks.
        self.shared = words[drawn.to(words.device)].clone().requires_grad_()
        self.own = torch.zeros(slots, links, words.shape[1], device=words.device, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.shared, self.own], peak)
        self.steps, self.seconds = 0, 0.0

    @property
    def vectors(self) -> torch.Tensor:
        """Embeddings ``[slots, links, H]`` as they are now."""
        vectors: torch.Tensor = self.shared + self.own
        return vectors

    def encode(self, text: str) -> list[int]:
        """Token ids of a part of a prompt."""
        return self.codec.part(text, first=False)

    def draw(self) -> list[Exercise]:
        """Draw the next batch: as many chunks in each of its exercises."""
        chunks = self.rng.randint(2, len(self.own))
        return [exercise(self.rng, self.encode, self.end, chunks, self.questions) for _ in range(self.batch)]

    def run(self, every: int = 20) -> Iterator[dict[str, float]]:
        """Train until the budget is used up; yields a record every ``every`` steps and at the end."""
        while self._spent() < 1:
            started = time.perf_counter()
            loss, right = self.step(self.draw())
            self.seconds += time.perf_counter() - started
            if self.steps % every == 0 or self._spent() >= 1:
                yield {"step": self.steps, "seconds": self.seconds, "loss": loss, "right": right}

    def step(self, batch: Sequence[Exercise]) -> tuple[float, float]:
        """One optimiser step; returns the loss and the share of answer tokens that were right."""
        logits, wanted = self.answers(batch)
        loss = torch.nn.functional.cross_entropy(logits.float(), wanted)
        parameters = [self.shared, self.own]
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self._spent(), self.steps, self.peak)
        self.optimizer.step()
        self.steps += 1
        return loss.item(), (logits.argmax(-1) == wanted).float().mean().item()

    def _spent(self) -> float:
        return self.budget.spent(self.seconds, self.steps)

    def answers(self, batch: Sequence[Exercise]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[n, V]`` where each answer token is due, and these tokens ``[n]``, of all exercises in turn."""
        chunks, links = len(batch[0].chunks), self.own.shape[1]
        cache, key_positions, real = self._encoded(batch)
        rows = [_rows(one, self.front, links, self._base) for one in batch]
        width = max(len(row.ids) for row in rows)
        device = self.shared.device
        ids, positions, groups, wanted = (
            torch.tensor([[*row[part], *[filler] * (width - len(row.ids))] for row in rows], device=device)
            for part, filler in enumerate((0, 0, -1, _IGNORED))
        )
        seen = torch.cat(
            [real[:, None] & (key_positions[:, None] < positions[..., None]), _among(positions, groups)], -1
        )
        embedded = self.model.get_input_embeddings()(ids).detach()
        at, front = self.vectors[:chunks].flatten(0, 1), len(self.front)
        embedded[:, front : front + len(at)] = at.to(embedded.dtype)
        mask = torch.zeros(seen.shape, dtype=embedded.dtype, device=device)
        mask = mask.masked_fill_(~seen, torch.finfo(embedded.dtype).min)[:, None]
        with self.session.adapter.evaluating():
            logits = self.model(
                inputs_embeds=embedded,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=True,
            ).logits
        due = wanted != _IGNORED
        return logits[due], wanted[due]

    def save(self, path: str | Path) -> None:
        """Write the embeddings for ``kvlink(weights=path)``."""
        write_links(path, Links(self.vectors, trained_on=self.session.adapter.fingerprint))

    @property
    def _base(self) -> int:
        # Where the prompt begins: a sink longer than what stands before the first chunk needs room there.
        return max(0, len(self.sink) - len(self.front))

    def _encoded(self, batch: Sequence[Exercise]) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """K/V of all chunks, each behind its sink and as if nothing else were there: a cache of ``[B, H, C * L, D]``.

        Also the positions ``[B, C * L]`` of its keys, and which of them are no padding.
        """
        links, sink, device = self.own.shape[1], len(self.sink), self.shared.device
        longest = max(len(chunk) for one in batch for chunk in one.chunks)
        ids, starts, sizes = [], [], []
        for one in batch:
            at = self._base + len(self.front)
            for chunk in one.chunks:
                ids.append([*self.sink, *chunk, *[0] * (longest - len(chunk))])
                starts.append(at)
                sizes.append(len(chunk))
                at += len(chunk) + links
        steps = torch.arange(-sink, longest, device=device)
        positions = torch.tensor(starts, device=device)[:, None] + steps
        alone, cache = DynamicCache(), DynamicCache()
        layers: Any = alone.layers
        with torch.no_grad(), self.session.adapter.evaluating():
            self.model(
                input_ids=torch.tensor(ids, device=device),
                position_ids=positions,
                past_key_values=alone,
                use_cache=True,
            )
        for index, layer in enumerate(layers):
            keys, values = (_side_by_side(side[:, :, sink:], len(batch)) for side in (layer.keys, layer.values))
            cache.update(keys, values, index)
        real = steps[sink:] < torch.tensor(sizes, device=device)[:, None]
        return cache, positions[:, sink:].reshape(len(batch), -1), real.reshape(len(batch), -1)


class _LinkedRows(NamedTuple):
    """Rows that are run, and the token that each must say next; ids are 0 at link tokens.

    Rows of group 0 are seen by all behind them, those of group n by the n-th question and its answer only.
    """

    ids: list[int]
    positions: list[int]
    groups: list[int]
    wanted: list[int]

    def add(self, ids: Sequence[int], at: int, group: int = 0, wanted: Sequence[int] = ()) -> None:
        """Append rows from position ``at`` on; ``wanted`` belongs to the last of them."""
        self.ids.extend(ids)
        self.positions.extend(range(at, at + len(ids)))
        self.groups.extend([group] * len(ids))
        self.wanted.extend([*[_IGNORED] * (len(ids) - len(wanted)), *wanted])


def _rows(one: Exercise, front: Sequence[int], links: int, base: int) -> _LinkedRows:
    rows = _LinkedRows([], [], [], [])
    rows.add(front, base)
    at = base + len(front)
    for chunk in one.chunks:
        rows.add([0] * links, at + len(chunk))
        at += len(chunk) + links
    for group, (question, answer) in enumerate(one.asked, start=1):
        rows.add([*question, *answer[:-1]], at, group, answer)
    return rows


def _among(positions: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Which of the rows ``[B, R, R]`` each of them sees: those before it, of its own question or of none."""
    before = positions[:, None] <= positions[..., None]
    shared = (groups[:, None] == 0) | (groups[:, None] == groups[..., None])
    seen: torch.Tensor = before & shared & (groups[:, None] >= 0)
    return seen


def _side_by_side(states: torch.Tensor, batch: int) -> torch.Tensor:
    """``[B * C, H, L, D]`` as ``[B, H, C * L, D]``."""
    joined: torch.Tensor = states.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)
    return joined
