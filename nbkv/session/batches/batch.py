"""``session.generate_batch``: prompts are read, run in waves as the strategy plans them, and what there is is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace

from tqdm.auto import tqdm

from nbkv.context import Context
from nbkv.errors import BadPrompt, NbkvError
from nbkv.events import BatchProgress
from nbkv.inference.batch_request import BatchRequest
from nbkv.inference.by_batch import BatchFigures, BatchLoop
from nbkv.models.sampling import Sampling
from nbkv.prompts.passage_order import reordered
from nbkv.prompts.prompt import Prompt, PromptLike
from nbkv.result import Chunk, Result
from nbkv.session.arguments import RequestArguments, built_prompt, chosen_strategy, is_free, wanted_sampling
from nbkv.session.batches.results import BatchResults
from nbkv.session.batches.schedule import AsGiven, Schedule, schedule_of
from nbkv.session.lock import SessionLock
from nbkv.session.misses.past import Seen
from nbkv.stopping import Stopped
from nbkv.strategy import Strategy

_ACCEPTED = "prompts is a list, a column of a table or any iterable of prompts, each what generate takes"


def listed(prompts: object) -> Iterable[PromptLike]:
    """Return ``prompts`` if they are many; raises ``BadPrompt`` for what is one prompt, or a whole table."""
    if isinstance(prompts, (str, Chunk, Result, Mapping)) or not isinstance(prompts, Iterable):
        message = f"prompts is a {type(prompts).__name__}: {_ACCEPTED}"
        raise BadPrompt(message)
    if hasattr(prompts, "columns"):
        message = f"prompts is a table: name a column of it, such as table[{next(iter(prompts.columns), 'prompt')!r}]"
        raise BadPrompt(message)
    if isinstance(prompts, Sequence) and prompts and isinstance(prompts[0], Mapping):
        message = "these are the messages of one prompt: give a list of prompts, [messages]"
        raise BadPrompt(message)
    return prompts


@dataclass
class BatchJob:
    """One call of ``session.generate_batch``; ``rows`` are the requests so far, also after an interrupt.

    ``read`` makes a Prompt of what was given, or raises ``BadPrompt``; ``numbers`` are those of requests;
    ``free_order`` says that passages may be put in another order.
    """

    ctx: Context
    strategy: Strategy
    sampling: Sampling
    read: Callable[[PromptLike], Prompt]
    numbers: Iterator[int]
    schedule: Schedule = field(default_factory=AsGiven)
    free_order: bool = False
    progress: bool = True
    rows: list[BatchRequest] = field(default_factory=list)
    _errors: dict[int, NbkvError] = field(default_factory=dict)
    _labels: list[Hashable] = field(default_factory=list)
    _figures: BatchFigures = field(default_factory=BatchFigures)
    _notes: dict[str, None] = field(default_factory=dict)
    _began: float = 0.0
    _seconds: float = 0.0

    @classmethod
    def of(
        cls,
        ctx: Context,
        asked: RequestArguments,
        options: Mapping[str, object],
        known: tuple[Mapping[str, Chunk], Callable[[Context], Sequence[Seen]]],
        schedule: str | None,
        *,
        numbers: Iterator[int],
        progress: bool,
    ) -> BatchJob:
        """Return the job that was asked for; raises ``BadOption``, ``UnknownName``, ``UnsupportedModel``.

        ``known`` are the session's chunks and its earlier sequences, which ``match`` looks for.
        """
        assert asked.strategy is not None  # noqa: S101
        chunks, earlier = known
        return cls(
            ctx,
            chosen_strategy(asked.strategy, ctx, force=asked.force),
            wanted_sampling(asked.stop, options, ctx),
            lambda prompt: built_prompt(prompt, asked.match, chunks, ctx, options, earlier=earlier),
            numbers,
            schedule_of(schedule),
            is_free(asked.order),
            progress,
        )

    @property
    def results(self) -> BatchResults:
        """Return what there is."""
        return BatchResults(
            results=tuple(None if at in self._errors else row.result for at, row in enumerate(self.rows)),
            errors=dict(sorted(self._errors.items())),
            labels=tuple(self._labels),
            strategy=self.strategy.spec,
            model=self.ctx.adapter.name,
            seconds=self._seconds,
            figures=self._figures,
            notes=tuple(self._notes),
        )

    def run(self, prompts: Iterable[PromptLike], lock: SessionLock) -> BatchResults:
        """Run ``prompts`` within ``lock``. After a Ctrl-C, ``KeyboardInterrupt`` has what there is as ``result``."""
        prompts = listed(prompts)
        lock.enter()
        self._began = time.perf_counter()
        try:
            with lock.working():
                self._run(prompts)
        except KeyboardInterrupt as error:  # the second one: a store operation may have been cut in two
            self.ctx.store.clear()
            raise self._interrupt(error) from None
        finally:
            self._end()
            lock.leave()
        if lock.interrupted:
            raise self._interrupt(KeyboardInterrupt()) from None
        return self.results

    def _run(self, prompts: Iterable[PromptLike]) -> None:
        labels = getattr(prompts, "index", None)  # of a column; lists have a method of that name
        labels = None if labels is None or callable(labels) else iter(labels)
        total = len(prompts) if isinstance(prompts, Sized) else None
        with tqdm(total=total, desc="batch", unit="prompt", disable=not self.progress) as bar:
            try:
                for wave in self.schedule.waves(self._arriving(prompts, labels), self._hit_rate):
                    bar.update(sum(row.index in self._errors for row in wave))
                    for _ in self._served([row for row in wave if row.index not in self._errors]):
                        bar.update()
                        self._tell(total)
            except Stopped:
                return

    def _arriving(self, prompts: Iterable[PromptLike], labels: Iterator[Hashable] | None) -> Iterator[BatchRequest]:
        """Yield a request for each prompt; of one that cannot be read the error is kept."""
        for at, given in enumerate(prompts):
            self._labels.append(at if labels is None else next(labels))
            try:
                prompt = self._read(given)
            except BadPrompt as error:
                self._failed(at, error)
                prompt = Prompt(())
            self.rows.append(
                BatchRequest(
                    replace(self.ctx, request=next(self.numbers)),
                    self.strategy,
                    prompt,
                    replace(self.sampling, seed=self.sampling.seed + at),
                    index=at,
                    at=self._began,
                )
            )
            yield self.rows[-1]

    def _read(self, given: object) -> Prompt:
        if isinstance(given, (str, Chunk, Result, Sequence)):
            return self.read(given)
        message = f"it is a {type(given).__name__} (accepted: text, a list of parts, a list of messages)"
        raise BadPrompt(message)

    def _served(self, wave: Sequence[BatchRequest]) -> Iterator[BatchRequest]:
        """Run one wave as the strategy plans it; yield the requests as they end."""
        if not wave:
            return
        if self.free_order:
            for row, prompt in zip(wave, reordered([row.prompt for row in wave], self._known), strict=True):
                row.prompt = prompt
        plan = self.strategy.together([row.asked for row in wave], self.ctx)
        if plan.why:
            self._notes[plan.why] = None
        loop = BatchLoop(wave, plan, self.ctx)
        try:
            for row in loop.finished():
                if row.error is not None:
                    self._failed(row.index, row.error)
                yield row
        finally:
            self._figures = self._figures.with_those_of(loop.figures)

    def _failed(self, at: int, error: Exception) -> None:
        """Keep ``error`` under a message that names the prompt."""
        label = "" if self._labels[at] == at else f" ({self._labels[at]!r})"
        kind = type(error) if isinstance(error, NbkvError) else NbkvError
        what = str(error) if isinstance(error, NbkvError) else f"{type(error).__name__}: {error}"
        self._errors[at] = kind(f"prompt {at}{label}: {what}")
        self._errors[at].__cause__ = error

    def _known(self, ids: Sequence[int]) -> int:
        return self.ctx.store.holds(self.ctx.space(), ids)

    def _hit_rate(self, row: BatchRequest) -> float:
        """Return which share of a prompt is stored: its prefix, and where chunks are reused, chunks behind that."""
        n, prompt = len(row.prompt.ids), row.prompt
        if not n:
            return 1.0  # it failed: nothing of it runs
        known = self._known(prompt.ids)
        if not self.strategy.exact:
            known += sum(
                stop - start for chunk, start, stop in prompt.chunks if start >= known and self.ctx.keeps(chunk)
            )
        return known / n

    def _tell(self, total: int | None) -> None:
        done = sum(row.result is not None for row in self.rows) + len(self._errors)
        generated = sum(len(row.result.token_ids) for row in self.rows if row.result is not None)
        self.ctx.tell(BatchProgress, done=done, total=len(self.rows) if total is None else total, generated=generated)

    def _end(self) -> None:
        self._seconds = time.perf_counter() - self._began
        for at, row in enumerate(self.rows):
            if row.result is None and at not in self._errors:
                row.leave_out()

    def _interrupt(self, error: KeyboardInterrupt) -> KeyboardInterrupt:
        error.result = self.results  # type: ignore[attr-defined]
        return error
