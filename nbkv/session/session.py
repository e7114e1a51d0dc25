"""The session: a loaded model, a store and a strategy, and every way of asking them for something."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from nbkv.context import Context
from nbkv.errors import NbkvError
from nbkv.events import Bus
from nbkv.families.residual import planner
from nbkv.inference.run import LaterRun, RequestRun
from nbkv.models.adapter import ModelAdapter
from nbkv.models.loading import Loaded, load_model
from nbkv.prompts.prompt import Prompt, PromptLike
from nbkv.result import Chunk, Comparison, Result
from nbkv.roster import roster
from nbkv.session.arguments import built_prompt, chosen_strategy, exportable, verdict_name, wanted_sampling
from nbkv.session.certificates.calibration import Question
from nbkv.session.certificates.certificate import Certificate, certify
from nbkv.session.certificates.guarantee import Guarantee
from nbkv.session.chat import Chat
from nbkv.session.chunks import make_chunk
from nbkv.session.compare import check_repeat, compare
from nbkv.session.exports.transfer import CacheFile
from nbkv.session.exports.transfer import export as exported
from nbkv.session.exports.transfer import import_ as imported
from nbkv.session.lock import SessionLock
from nbkv.session.measure import FidelityMeter
from nbkv.session.misses.journal import Journal
from nbkv.session.stats import Meter, Stats
from nbkv.session.stream import Stream
from nbkv.session.verify import Report, verify
from nbkv.stopping import Stopper
from nbkv.stores.base import Keeping, Scratch, Store
from nbkv.stores.spec import check_spec, open_store, parse_seconds
from nbkv.strategy import Strategy, parse, split

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

    from nbkv.families.residual.planner import Plan
    from nbkv.families.routing.cost_model import CostModel

_numbers = count(1)


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


class Session:
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
        strategy.check(loaded.adapter)
        self.name = name or f"{loaded.name}-{next(_numbers)}"
        self.model_name = loaded.name
        self.events = Bus()
        self.chunks: dict[str, Chunk] = {}
        self.last: Result | Comparison | None = None
        self._strategy = strategy
        self._stopper = Stopper()
        self._meter = Meter()
        self.events.add(self._meter)
        opened, scratch = open_store(store, self.events, *loaded.adapter.devices), Scratch()
        opened.scratch_spaces.add(scratch)
        self._ctx: Context | None = Context(
            loaded.adapter,
            loaded.codec,
            opened,
            self.events,
            self._stopper,
            self.name,
            tenant,
            loaded.notes,
            loaded.verdicts,
            scratch,
        )
        self._lock = SessionLock(self.name, self._stopper)
        self._journal = Journal(self._ctx, self._lock)
        self._fidelity = fidelity_meter
        self._count = 0
        roster.add(self)

    # asking

    def generate(
        self,
        prompt: PromptLike,
        *,
        strategy: str | Strategy | None = None,
        stop: str | Sequence[str] | None = None,
        match: str | None = None,
        force: bool = False,
        fidelity: bool = False,
        **options: Any,  # noqa: ANN401  (as transformers names them)
    ) -> Result:
        """Run ``prompt`` (text, a list of parts, or messages) and return the answer with its figures.

        ``options``: ``max_new_tokens`` (64), ``temperature`` (0: greedy), ``seed``, ``top_p``, ``top_k``,
        ``repetition_penalty``, ``logits_processor``, ``stopping_criteria``; for block-diffusion models ``unmask``, such
        as ``"dynamic(threshold=0.9)"``, ``"static(steps=4)"``, ``"entropy(bound=0.1)"``, ``"sequential"``: which masked
        tokens a pass fills. ``match="auto"`` also takes this session's chunks for given where they stand in plain text
        with all of their own token ids (at its borders text may be tokenised differently). ``force`` runs a strategy
        that failed its self-check. ``fidelity`` measures KL and top-1 agreement against full on this prompt, after the
        answer and not counted in its timing.
        Ctrl-C raises ``KeyboardInterrupt`` whose ``result`` is what there was; after ``stop()`` that result is
        returned. Raises ``BadPrompt``, ``BadOption``, ``UnknownName``, ``UnsupportedModel``, ``OutOfMemory``.
        """
        how: dict[str, Any] = {"strategy": strategy, "stop": stop, "match": match, "force": force, "fidelity": fidelity}
        run = self._run(RequestRun, prompt, options, **how)
        return Stream(run, self._lock, self._remember).exhaust()

    def stream(
        self,
        prompt: PromptLike,
        *,
        strategy: str | Strategy | None = None,
        stop: str | Sequence[str] | None = None,
        match: str | None = None,
        force: bool = False,
        fidelity: bool = False,
        **options: Any,  # noqa: ANN401  (as transformers names them)
    ) -> Stream:
        """Run ``prompt`` like ``generate`` and give the answer's text piece by piece; ``.result`` at the end."""
        how: dict[str, Any] = {"strategy": strategy, "stop": stop, "match": match, "force": force, "fidelity": fidelity}
        run = self._run(LaterRun, prompt, options, **how)
        return Stream(run, self._lock, self._remember)

    def chat(self, system: str | None = None) -> Chat:
        """Return a conversation that keeps every token id verbatim; ``chat.send(text)`` gives a Result."""
        self._open()
        return Chat(self, system)

    def chunk(self, text: str, *, name: str | None = None, sink: str = "auto") -> Chunk:
        """Encode ``text`` once and keep its KV in the store; the same name with new text replaces the chunk.

        ``sink``: what it is encoded behind; the sink's KV is dropped at use. ``auto`` is the tokenizer's BOS (else one
        dummy token), or a primer where a measurement of this model asks for one; ``bos``, ``none``, ``dummy`` (four
        dummy tokens), ``primer`` (BOS and neutral text) and ``context`` (what a chat prompt begins with and two neutral
        passages) insist. Raises ``BadPrompt`` and ``BadOption``.
        """
        ctx, name = self._open().for_request(), name or f"chunk{len(self.chunks) + 1}"
        with self._lock.request():
            self._journal.encoding(name)
            made = make_chunk(ctx, text, name, sink)
        self._journal.chunk(made, ctx)
        known = self.chunks.get(name)
        if known == made:
            return known
        if known is not None:
            made = replace(made, notes=(*made.notes, f"replaces another chunk named {name!r}"))
        self.chunks[name] = made
        return made

    def keep(self, what: Chunk | PromptLike, *, pinned: bool = True, ttl: str | float = 0, priority: int = 0) -> int:
        """Have the KV of a chunk, or of what a prompt begins with, be kept; return how many tokens that reached.

        ``pinned`` KV is not evicted. On disk, Redis and elsewhere ``ttl`` (seconds, or text such as ``"7d"``) limits
        its time, and ``priority`` comes before any policy: the lowest goes first, 0 is usual. ``pinned=False`` undoes
        it. Raises ``BadPrompt`` and ``BadOption``.
        """
        ctx = self._open().for_request()
        seconds = parse_seconds(ttl) if isinstance(ttl, str) else float(ttl)
        path = (*what.sink, *what.token_ids) if isinstance(what, Chunk) else self._prompt(what).ids
        with self._lock.request():
            return ctx.store.keep(ctx.space(), path, Keeping(pinned, seconds, priority))

    def compare(
        self,
        prompt: PromptLike,
        strategies: str | Sequence[str | Strategy] = ("full", "prefix"),
        *,
        repeat: int = 3,
        stop: str | Sequence[str] | None = None,
        match: str | None = None,
        **options: Any,  # noqa: ANN401  (as transformers names them)
    ) -> Comparison:
        """Run one prompt under several strategies, in turns, ``repeat`` times each, and measure all against ``full``.

        Every run finds the store as it is and leaves it so, and none counts in ``stats`` or ``history``. Options are
        those of ``generate``.
        """
        ctx = self._open().for_request()
        check_repeat(repeat)
        wanted, ids = wanted_sampling(stop, options, ctx), built_prompt(prompt, match, self.chunks.values(), ctx)
        chosen = [chosen_strategy(one, ctx) for one in split(strategies)]
        with self._lock.request():
            table = compare(replace(ctx, bus=Bus()), chosen, ids, wanted, repeat)
        self.last = table
        return table

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
            return certify(prompts, guarantee, strategies, sink, ctx)

    def export(
        self, path: str | Path, chunks: Iterable[str | Chunk] | None = None, *, prefix: PromptLike | None = None
    ) -> CacheFile:
        """Write KV to a file that another session, process or machine can ``import_``: what was read once is there.

        ``chunks``: names or chunks (None: all, unless a ``prefix`` is given); ``prefix``: what ``generate`` takes, or a
        Result. Raises ``UnknownName``, ``BadPrompt``, ``UnsupportedModel``, ``LoadError``.
        """
        wanted = exportable(chunks, prefix, self.chunks, ctx := self._open().for_request())
        with self._lock.request():
            return exported(ctx, path, *wanted)

    def import_(self, path: str | Path) -> CacheFile:
        """Take in what ``export`` wrote, if golden rows, run again here, agree within this model's noise.

        All or nothing: raises ``LoadError`` for a damaged file, ``UnsupportedModel`` where this model has other KV.
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
            chosen = [parse(one) for one in strategy]
        with self._lock.request():
            report = verify(ctx, chosen, tuple(self.chunks.values()))
        for one in chosen:
            ctx.verdicts.put(verdict_name(one, ctx), report.failed(one.spec))
        return report

    def plan(self, tokens: int = 1024) -> Plan:
        """Measure older tokens in each form (minutes); raises ``BadOption`` and ``UnsupportedModel``."""
        ctx = self._open()
        with self._lock.request():
            return planner.plan(ctx.adapter, tokens)

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
        """Replace the store by an empty one; chunks keep their text and are encoded again when used."""
        ctx = self._open()
        opened = open_store(store, self.events, *ctx.adapter.devices)
        opened.scratch_spaces.add(ctx.scratch)
        with self._lock.request():
            ctx.store.close()
            self._ctx = replace(ctx, store=opened)
            self._journal.use(self._ctx)
        return opened

    @property
    def adapter(self) -> ModelAdapter:
        """Return the model as nbkv runs it; ``adapter.model`` is the transformers model."""
        return self._open().adapter

    @property
    def costs(self) -> CostModel:
        """Return what passes of prefill cost here, measured at the first call; raises ``UnsupportedModel``."""
        self._open()
        return self._journal.measured()

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401  (as transformers names them)
        """Return the model's tokenizer."""
        return self._open().codec.tokenizer

    @property
    def has_template(self) -> bool:
        """Return whether prompts can be messages."""
        return self._open().codec.has_template

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
        """End the request under way at the next layer or token; from any thread."""
        self._stopper.stop()

    # life

    def close(self) -> None:
        """Free the model and the KV in memory; the session cannot be asked any more."""
        if self._ctx is None:
            return
        roster.remove(self)
        device = self._ctx.adapter.device
        self._ctx.store.close()
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

    def _open(self) -> Context:
        if self._ctx is None:
            message = f"session {self.name!r} is closed; load the model again"
            raise NbkvError(message)
        return self._ctx

    def _run(
        self,
        begun: type[RequestRun],
        prompt: PromptLike,
        options: dict[str, Any],
        *,
        strategy: str | Strategy | None,
        stop: str | Sequence[str] | None,
        match: str | None,
        force: bool,
        fidelity: bool,
    ) -> RequestRun:
        number = self._count + 1
        ctx, after = self._open().for_request(number), self._fidelity.after(number, asked=fidelity)
        wanted = wanted_sampling(stop, options, ctx)
        chosen = chosen_strategy(self._strategy if strategy is None else strategy, ctx, force=force)
        built = built_prompt(prompt, match, self.chunks.values(), ctx)
        self._count = number
        return begun(ctx, chosen, built, wanted, after=after, explains=self._journal.request)

    def _prompt(self, prompt: PromptLike, match: str | None = None) -> Prompt:
        return built_prompt(prompt, match, self.chunks.values(), self._open().for_request())

    def _remember(self, result: Result) -> None:
        self.last = result
