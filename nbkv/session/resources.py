"""What a session holds: its model, store and strategy, the figures of its requests, and how it lets go of them."""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import torch

from nbkv.context import Context
from nbkv.errors import NbkvError
from nbkv.events import Bus
from nbkv.models.adapter import ModelAdapter
from nbkv.models.loading import Loaded
from nbkv.prompts.prompt import Prompt, PromptLike
from nbkv.result import Chunk, Comparison, Result
from nbkv.roster import roster
from nbkv.session.arguments import built_prompt, chosen_strategy
from nbkv.session.batches.results import BatchResults
from nbkv.session.lock import SessionLock
from nbkv.session.measure import FidelityMeter
from nbkv.session.misses.journal import Journal
from nbkv.session.search.results import SearchResult
from nbkv.session.stats import Meter, Stats
from nbkv.show.progress import screen
from nbkv.stopping import Stopper
from nbkv.stores.base import Scratch, Store
from nbkv.stores.spec import open_store
from nbkv.strategy import Strategy

if TYPE_CHECKING:
    import pandas as pd

    from nbkv.families.routing.cost_model import CostModel

_numbers = count(1)
EXPLAINED = 8  # newest answers that ``why`` knows


class Resources:
    """One model with its store and strategy, open until ``close``. A ``Session`` is more: it can be asked."""

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
        self.last: Result | Comparison | BatchResults | SearchResult | None = None
        self._answers: deque[Result] = deque(maxlen=EXPLAINED)
        self._strategy = strategy
        self._stopper = Stopper()
        self._meter = Meter()
        self.events.add(self._meter)
        self.events.add(screen)
        opened, scratch = open_store(store, self.events, *loaded.adapter.devices), Scratch()
        self._lent = opened is store
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
            model=loaded.adapter.fingerprint,
        )
        self._lock = SessionLock(self.name, self._stopper, self.events)
        self._journal = Journal(self._ctx, self._lock)
        self._fidelity = fidelity_meter
        self._count = count(1)
        roster.add(self)

    # looking

    @property
    def adapter(self) -> ModelAdapter:
        """Return the model as nbkv runs it; ``adapter.model`` is the transformers model."""
        return self._open().adapter

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401  (as transformers names them)
        """Return the model's tokenizer."""
        return self._open().codec.tokenizer

    @property
    def end_tokens(self) -> frozenset[int]:
        """Return the token ids that end an answer."""
        return self._open().eos

    @property
    def has_template(self) -> bool:
        """Return whether prompts can be messages."""
        return self._open().codec.has_template

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return the text of each token of ``ids``."""
        return self._open().codec.pieces(ids)

    def full_ttft_s(self, tokens: int) -> float | None:
        """Return about the seconds to the first token that ``full`` takes for ``tokens``, from requests so far.

        None before a prompt of a quarter of that length or more was computed whole.
        """
        return self._meter.full_ttft_s(tokens)

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

    def _open(self) -> Context:
        if self._ctx is None:
            message = f"session {self.name!r} is closed; load the model again"
            raise NbkvError(message)
        return self._ctx

    def _prompt(self, prompt: PromptLike, match: str | None = None) -> Prompt:
        ctx = self._open().for_request()
        return built_prompt(prompt, match, self.chunks, ctx, earlier=self._journal.earlier)

    def _give_back(self, store: Store) -> None:
        """Close ``store`` if this session opened it."""
        if not self._lent:
            store.close()
