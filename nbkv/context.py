"""What a request is, and what a strategy works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbkv.errors import BadPrompt
from nbkv.events import Bus, Event, Layer
from nbkv.kv import Space
from nbkv.models.adapter import ModelAdapter
from nbkv.models.identity.verdicts import Verdicts
from nbkv.models.sampling import eos_ids
from nbkv.models.work import Work
from nbkv.prompts.prompt import Prompt
from nbkv.prompts.tokenizer import Codec
from nbkv.result import Chunk
from nbkv.stopping import Stopper
from nbkv.stores.memory import MemoryStore
from nbkv.stores.scratch import Scratch


@dataclass(frozen=True)
class Request:
    """One prompt to run: its ids and chunk spans, how many tokens may follow, and whether its KV may be kept."""

    prompt: Prompt
    max_new_tokens: int
    keep: bool = True

    @property
    def ids(self) -> tuple[int, ...]:
        """Return the prompt's token ids."""
        return self.prompt.ids


@dataclass(frozen=True)
class Context:
    """What a strategy works with; ``model`` is the fingerprint of ``adapter``'s weights as this request began.

    ``on_layer(index, rows)`` is called after each layer and may end the request; ``pieces(ids)`` gives the text of each
    token. ``shelf`` is this session's: what a strategy keeps there, under its own name, only later requests of the same
    session find. ``verdicts`` is what was found out about this model and may be added to.
    """

    adapter: ModelAdapter
    store: MemoryStore
    bus: Bus
    model: str
    tenant: str = "default"
    session: str = ""
    request: int = 0
    on_layer: Callable[[int, int], None] | None = None
    pieces: Callable[[Sequence[int]], tuple[str, ...]] = lambda ids: ("",) * len(ids)
    shelf: Scratch = field(default_factory=Scratch)
    verdicts: Verdicts = field(default_factory=Verdicts)

    def space(self, lineage: str = "exact") -> Space:
        """Return where KV of this model and tenant with ``lineage`` may be kept and found."""
        return Space(self.model, str(self.adapter.dtype), self.tenant, lineage, self.adapter.capabilities.block)

    def work(self) -> Work:
        """Return a counter for token-layers that also follows the layers."""
        return Work(on_layer=self.on_layer)

    def tell(self, kind: type[Event], **fields: Any) -> None:  # noqa: ANN401
        """Let whoever listens hear an event of ``kind`` about this request."""
        if self.bus.heard:
            self.bus.emit(kind(session=self.session, request=self.request, **fields))


@dataclass(frozen=True)
class Engine:
    """What every request of a session runs on."""

    adapter: ModelAdapter
    codec: Codec
    store: MemoryStore
    bus: Bus
    stopper: Stopper
    session: str
    tenant: str
    notes: tuple[str, ...] = ()
    verdicts: Verdicts = field(default_factory=Verdicts)
    shelf: Scratch = field(default_factory=Scratch)

    def __post_init__(self) -> None:
        """Let what strategies keep for themselves go when the store is cleared."""
        self.store.shelves.add(self.shelf)

    @property
    def eos(self) -> frozenset[int]:
        """Return the token ids that end an answer."""
        return eos_ids(getattr(self.adapter.model, "generation_config", None))

    def fits(self, tokens: int) -> None:
        """Raise ``BadPrompt`` if so many tokens leave no room for an answer."""
        context = self.adapter.capabilities.context
        if tokens >= context:
            message = f"{tokens} tokens are too many: this model's context is {context}, one of them for the answer"
            raise BadPrompt(message)

    def keeps(self, chunk: Chunk) -> bool:
        """Return whether the store still has all of ``chunk``."""
        path = (*chunk.sink, *chunk.token_ids)
        return self.store.holds(self.context().space(), path) == self.adapter.capabilities.whole(len(path))

    def context(self, number: int = 0) -> Context:
        """Return what a strategy works with; layers are followed by the stop flag and by events, if anybody listens."""
        n_layers = self.adapter.n_layers
        who: dict[str, Any] = {"session": self.session, "request": number}

        def on_layer(index: int, rows: int) -> None:
            self.stopper.check()
            if rows > 1 and self.bus.heard:
                self.bus.emit(Layer(**who, index=index, n_layers=n_layers, rows=rows))

        model = self.adapter.fingerprint
        own: dict[str, Any] = {"on_layer": on_layer, "pieces": self.codec.pieces}
        own |= {"shelf": self.shelf, "verdicts": self.verdicts}
        return Context(self.adapter, self.store, self.bus, model, self.tenant, **who, **own)
