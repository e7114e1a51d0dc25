"""What a request is, and what it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from nbkv.errors import BadPrompt
from nbkv.events import Advanced, Bus, Event, Layer
from nbkv.kv import Space
from nbkv.models.adapter import ModelAdapter
from nbkv.models.identity.verdicts import Verdicts
from nbkv.models.sampling import eos_ids
from nbkv.models.work import Work
from nbkv.prompts.prompt import Prompt
from nbkv.prompts.tokenizer import Codec
from nbkv.result import Chunk
from nbkv.show.units import plural
from nbkv.stopping import Stopped, Stopper
from nbkv.stores.base import Scratch, Store

if TYPE_CHECKING:
    from collections.abc import Generator


class LongWork(Protocol):
    """Work of many steps, such as a comparison: what ``Context.carry_out`` does, tells of and stops."""

    work: str  # its name, such as ``compare``

    @property
    def total(self) -> int:
        """Return about how many steps it takes."""

    def steps(self) -> Generator[str]:
        """Do the work: before each step yield what it is, in a few words."""

    def found(self) -> dict[str, Any]:
        """Return what there is so far as JSON-able data; empty where there is nothing."""


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
    """What every request of a session runs on; strategies get the one made ``for_request``.

    ``model`` is the fingerprint of ``adapter``'s weights as that request began. ``scratch`` is this session's: what a
    strategy keeps there, under its own name, only later requests of the same session find. ``verdicts`` is what was
    found out about this model and may be added to. ``notes`` are what loading decided; ``said`` are all notes that
    answers of this session had.
    """

    adapter: ModelAdapter
    codec: Codec
    store: Store
    bus: Bus
    stopper: Stopper
    session: str
    tenant: str = "default"
    notes: tuple[str, ...] = ()
    verdicts: Verdicts = field(default_factory=Verdicts)
    scratch: Scratch = field(default_factory=Scratch)
    said: set[str] = field(default_factory=set)
    request: int = 0
    model: str = ""

    def for_request(self, number: int = 0) -> Context:
        """Return the context of request ``number`` on the model as it is now."""
        return replace(self, request=number, model=self.adapter.fingerprint)

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

    def space(self, lineage: str = "exact") -> Space:
        """Return where KV of this model and tenant with ``lineage`` may be kept and found."""
        return Space(self.model, str(self.adapter.dtype), self.tenant, lineage, self.adapter.capabilities.block)

    def keeps(self, chunk: Chunk) -> bool:
        """Return whether the store still has all of ``chunk``."""
        path = (*chunk.sink, *chunk.token_ids)
        return self.store.holds(self.space(), path) == self.adapter.capabilities.whole(len(path))

    def pieces(self, ids: Sequence[int]) -> tuple[str, ...]:
        """Return the text of each token."""
        return self.codec.pieces(ids)

    def work(self) -> Work:
        """Return a counter for token-layers that also follows the layers."""
        return Work(on_layer=self.on_layer)

    def on_layer(self, index: int, rows: int) -> None:
        """Take note that layer ``index`` has run over ``rows`` rows: a stop ends the request here, and events tell."""
        self.stopper.check()
        if rows > 1:
            self.tell(Layer, index=index, n_layers=self.adapter.n_layers, rows=rows)

    def tell(self, kind: type[Event], **fields: Any) -> None:  # noqa: ANN401  (the fields of that event)
        """Let whoever listens hear an event of ``kind`` about this request."""
        if self.bus.heard:
            self.bus.emit(kind(session=self.session, request=self.request, **fields))

    def carry_out(self, work: LongWork) -> str:
        """Do ``work``, telling each step before it is done; return "", or where a stop ended it how far it came."""
        done = 0

        def told(**last: Any) -> None:  # noqa: ANN401  (fields of the event)
            if self.bus.heard:
                self.tell(Advanced, work=work.work, done=done, total=max(done, work.total), found=work.found(), **last)

        try:
            with closing(work.steps()) as steps:
                for done, doing in enumerate(steps):  # noqa: B007  (told of)
                    told(doing=doing)
                    self.stopper.check()
            done = work.total
        except Stopped:
            return f"stopped after {done} of {plural(max(done, work.total), 'step')}"
        finally:
            told(over=True)
        return ""
