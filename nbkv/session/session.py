"""The session: a loaded model, a store and a strategy, and every way of asking them for something."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import torch

from nbkv.context import Context, LongWork
from nbkv.errors import BadOption
from nbkv.families.residual.planner import Plan, Planning
from nbkv.models.loading import Loaded, load_model
from nbkv.prompts.prompt import PromptLike
from nbkv.result import Chunk, Comparison
from nbkv.roster import roster
from nbkv.scalars import is_whole
from nbkv.session.arguments import (
    built_prompt,
    chosen_strategy,
    exportable,
    spells_out_sampling,
    verdict_name,
    wanted_sampling,
)
from nbkv.session.certificates.calibration import Question
from nbkv.session.certificates.certificate import Certificate, certify
from nbkv.session.certificates.guarantee import Guarantee
from nbkv.session.compare import compare
from nbkv.session.exports.transfer import CacheFile
from nbkv.session.exports.transfer import export as exported
from nbkv.session.exports.transfer import import_ as imported
from nbkv.session.measure import FidelityMeter
from nbkv.session.requests import Requests
from nbkv.session.stats import Stats
from nbkv.session.verify import Report, verify
from nbkv.stores.base import Store
from nbkv.stores.spec import check_spec, open_store
from nbkv.strategy import Strategy, parse, split

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from nbkv.families.routing.cost_model import CostModel


Work = TypeVar("Work", bound=LongWork)
Found = TypeVar("Found")


def load(
    model: str | Path | PreTrainedModel,
    *,
    strategy: str | Strategy = "prefix",
    store: str | Sequence[str] | Store = "memory",
    tenant: str = "default",
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    model_kwargs: dict[str, Any] | None = None,
    tokenizer: Any = None,  # noqa: ANN401  (slow and fast tokenizers share no typed parent)
    name: str | None = None,
    fidelity_every: int = 0,
    block_size: int | None = None,
) -> Session:
    """Return a session on ``model``: a known name, a hub id, a folder, a GGUF file, or a loaded model.

    Known names are those of bundled models (``"tiny"``) and of pretrained ones that packages carry (``"smollm2"``; see
    docs/models.md). Weights of a GGUF file are dequantised, and a note says from what. A loaded model needs its
    ``tokenizer``.

    ``strategy`` is a registered name, ``"name(option=value)"`` or a Strategy object; ``store`` a specification such as
    ``"memory?device=4GiB"`` or ``"memory+disk:~/.cache/nbkv"`` (docs/stores.md). ``dtype="auto"`` is float32 on a CPU
    and the checkpoint's own on a GPU. ``model_kwargs`` go to ``from_pretrained``. ``fidelity_every=n`` measures every
    n-th request against full (0: none). ``block_size`` chooses the block of a block-diffusion model among those it was
    made for. Raises ``LoadError``, ``UnknownName``, ``BadOption``, ``UnsupportedModel``.
    """
    chosen, fidelity_meter = parse(strategy), FidelityMeter(fidelity_every)
    if isinstance(store, (str, list, tuple)):
        check_spec(store)
    given: dict[str, Any] = {"device": device, "dtype": dtype, "model_kwargs": model_kwargs, "block_size": block_size}
    loaded = load_model(model, tokenizer=tokenizer, **given)
    return Session(loaded, chosen, store, tenant=tenant, name=name, fidelity_meter=fidelity_meter)


class Session(Requests):
    """One model with its store and strategy; one request at a time."""

    def __init__(
        self,
        loaded: Loaded,
        strategy: Strategy,
        store: str | Sequence[str] | Store,
        *,
        tenant: str,
        name: str | None,
        fidelity_meter: FidelityMeter,
    ) -> None:
        """Use ``load`` instead."""
        super().__init__(loaded, strategy, store, tenant=tenant, name=name, fidelity_meter=fidelity_meter)
        roster.add(self)

    # measuring

    @spells_out_sampling
    def compare(
        self,
        prompt: PromptLike,
        strategies: str | Sequence[str | Strategy] = ("full", "prefix"),
        *,
        repeat: int = 3,
        stop: str | Sequence[str] | None = None,
        match: str | None = None,
        order: str | None = None,
        **options: Any,  # noqa: ANN401  (as transformers names them)
    ) -> Comparison:
        """Run one prompt under several strategies, in turns, ``repeat`` times each, and measure all against ``full``.

        Every run finds the store as it is and leaves it so, and none counts in ``stats`` or ``history``. Options are
        those of ``generate``. Stopped, it returns the rows of what had run; Ctrl-C raises ``KeyboardInterrupt`` with
        them as its ``result``. So do ``certify``, ``verify`` and ``plan``.
        """
        ctx = self._open().for_request()
        if not is_whole(repeat, 1):
            message = f"repeat={repeat!r:.60} is not accepted: repeat is a whole number >= 1"
            raise BadOption(message)
        wanted = wanted_sampling(stop, options, ctx)
        ids = built_prompt(prompt, match, self.chunks, ctx, options, order=order, earlier=self._journal.earlier)
        chosen = [chosen_strategy(one, ctx) for one in split(strategies)]
        with self._lock.request():
            self.last = table = compare(ctx, chosen, ids, wanted, int(repeat))
        return self._lock.ended(table)

    def certify(
        self,
        prompts: Iterable[Question],
        *,
        max_kl: float,
        alpha: float = 0.1,
        rate: float = 0.05,
        strategies: str | Sequence[str | Strategy] | None = None,
        sink: str = "auto",
    ) -> Certificate:
        """Find the cheapest strategy whose error holds a bound on prompts like ``prompts``, with confidence 1 - alpha.

        Promised of it: at most a share ``rate`` of prompts drawn like these has a mean KL from full over the answer
        above ``max_kl`` nats. ``prompts`` are items of ``nbkv.tasks``, whose chunks are encoded behind ``sink``, or
        what ``generate`` takes. ``strategies``: those to try (None: ``prefix``, and every chunk strategy at falling
        budgets). All are measured as on a first request, whatever the session has in its store. Raises ``BadPrompt``,
        ``BadOption`` (also for too few prompts: it says how many it takes), ``UnknownName``, ``UnsupportedModel``.
        """
        ctx, guarantee = self._open().for_request(), Guarantee(max_kl, rate, alpha)
        with self._lock.request():
            certificate = certify(prompts, guarantee, strategies, sink, ctx)
        return self._lock.ended(certificate)

    def export(
        self, path: str | Path, chunks: Iterable[str | Chunk] | None = None, *, prefix: PromptLike | None = None
    ) -> CacheFile:
        """Write KV to a file that another session, process or machine can ``import_``: what was read once is there.

        ``chunks`` are names or chunks (None: all of them, unless a ``prefix`` is given); ``prefix`` is what
        ``generate`` takes, or a Result: its prompt and answer. Raises ``UnknownName``, ``BadPrompt``,
        ``UnsupportedModel``, ``LoadError``.
        """
        ctx = self._open().for_request()
        wanted = exportable(chunks, prefix, self.chunks, ctx)
        with self._lock.request():
            return exported(ctx, path, *wanted)

    def import_(self, path: str | Path) -> CacheFile:
        """Take in what ``export`` wrote, once a few golden rows, run again here, agree within this model's noise.

        Chunks of the file are then this session's, by their names. Raises ``LoadError`` for a damaged file, and
        ``UnsupportedModel``, with the check that failed, where this model computes other KV: then nothing is taken in.
        """
        ctx = self._open().for_request()
        with self._lock.request():
            file, chunks = imported(ctx, path)
        for chunk in chunks:
            self.chunks[chunk.name] = chunk
            self._journal.chunk(chunk, ctx)
        return file

    def verify(self, strategy: str | Strategy | Sequence[str | Strategy] | None = None) -> Report:
        """Check this model's walk, cache, relocation and ``strategy`` against its own plain forward; return the table.

        Several strategies make one table, in which one the model cannot serve is a row with the reason. The verdict is
        remembered for this model; a strategy that failed is refused from then on, unless asked for with ``force=True``.
        """
        ctx = self._open().for_request()
        if strategy is None or isinstance(strategy, (str, Strategy)):
            chosen = [chosen_strategy(self._strategy if strategy is None else strategy, ctx, force=True)]
        else:
            chosen = [parse(one) for one in split(strategy)]
        with self._lock.request():
            report = verify(ctx, chosen, tuple(self.chunks.values()))
        for one in chosen:
            failed = report.failed(one.spec)
            if failed or not report.stopped:
                ctx.verdicts.put(verdict_name(one, ctx), failed)
        return self._lock.ended(report)

    def plan(self, tokens: int = 1024) -> Plan:
        """Measure what it costs to hold ``tokens`` older tokens in each form of ``residual``; it may take minutes.

        Raises ``BadOption`` and ``UnsupportedModel``.
        """
        return self.carry_out(lambda ctx: Planning(ctx.adapter, tokens), Planning.plan)

    def carry_out(self, make: Callable[[Context], Work], found: Callable[[Work, str], Found]) -> Found:
        """Return what is ``found`` by the long work that ``make`` gives, told step by step, stopped as all others are.

        ``found`` also gets how far it came where it was stopped, else "".
        """
        ctx = self._open().for_request()
        with self._lock.request():
            work = make(ctx)
            made = found(work, ctx.carry_out(work))
        return self._lock.ended(made)

    # looking and switching

    @property
    def strategy(self) -> Strategy:
        """Return the strategy used when a call names none."""
        return self._strategy

    def use(self, strategy: str | Strategy, *, force: bool = False) -> Strategy:
        """Switch to ``strategy`` for the calls that name none; the store stays."""
        self._strategy = chosen_strategy(strategy, self._open().for_request(), force=force)
        return self._strategy

    @property
    def store(self) -> Store:
        """Return the store; ``store.tiers`` is its table."""
        return self._open().store

    def use_store(self, store: str | Sequence[str] | Store) -> Store:
        """Replace the store: by an empty one, or by a store object, which stays open whatever the session does.

        Chunks keep their text and are encoded again when used.
        """
        ctx = self._open()
        if store is ctx.store:
            return ctx.store
        opened = open_store(store, self.events, *ctx.adapter.devices)
        opened.scratch_spaces.add(ctx.scratch)
        with self._lock.request():
            self._give_back(ctx.store)
            self._ctx, self._lent = replace(ctx, store=opened), opened is store
            self._journal.use(self._ctx)
        return opened

    @property
    def costs(self) -> CostModel:
        """Return what passes of prefill cost here, measured at the first call; raises ``UnsupportedModel``."""
        self._open()
        return self._journal.measured()

    @property
    def stats(self) -> Stats:
        """Return the running figures of this session."""
        tiers = self._ctx.store.figures() if self._ctx else []
        return self._meter.stats(
            session=self.name,
            model=self.model_name,
            strategy=self._strategy.spec,
            tiers=tiers,
            evictions=sum(int(tier["evictions"]) for tier in tiers),
        )

    def history(self) -> pd.DataFrame:
        """Return one row for each finished request."""
        return self._meter.frame()

    @property
    def busy(self) -> bool:
        """Return whether a request is under way, in whatever thread."""
        return self._lock.busy

    def stop(self) -> None:
        """End the request under way, from any thread: at the next layer or token, a stream nobody reads at once."""
        self._lock.stop()

    # life

    def close(self) -> None:
        """Free the model and the KV in memory; the session cannot be asked any more.

        A request under way is stopped. A store object that was given to the session stays as it is, for its owner.
        """
        if self._ctx is None:
            return
        self.stop()
        roster.remove(self)
        device = self._ctx.adapter.device
        self._give_back(self._ctx.store)
        self._ctx = None
        self._journal.close()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def closed(self) -> bool:
        """Return whether ``close`` was called."""
        return self._ctx is None

    def __enter__(self) -> Self:
        """Return the session."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the session."""
        self.close()

    def __repr__(self) -> str:
        """Return name, model, strategy and whether it is closed."""
        state = "closed" if self.closed else f"{self.model_name}, {self._strategy.spec}"
        return f"<Session {self.name!r}: {state}>"

    # inside

    def _give_back(self, store: Store) -> None:
        """Close ``store`` if this session opened it."""
        if not self._lent:
            store.close()


@atexit.register
def _stop_all() -> None:
    """End half-read streams while torch still can: if Python clears them up, torch aborts the process."""
    for session in roster:
        session.stop()
