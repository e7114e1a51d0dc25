"""Events are the only path from the engine to the screen: frozen, JSON-able, counts and token spans, never tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Event:
    """What every event carries: the session's name and the request's number in it (0: outside a request)."""

    session: str = ""
    request: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON-able data; ``event`` is its kind."""
        return {"event": type(self).__name__} | asdict(self)


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """A request begins: its strategy and prompt length in tokens."""

    strategy: str
    prompt: int


@dataclass(frozen=True, kw_only=True)
class Reused(Event):
    """KV of the token span ``[start, stop)`` was taken from ``tier`` instead of computed."""

    start: int
    stop: int
    tier: str


@dataclass(frozen=True, kw_only=True)
class Layer(Event):
    """Layer ``index`` (0-based) of ``n_layers`` has run over ``rows`` tokens of the prompt."""

    index: int
    n_layers: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class Token(Event):
    """A token was decoded; ``text`` is the piece of text it completed (may be empty)."""

    token_id: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Finished(Event):
    """A request has ended; ``result`` has its figures and where the prompt came from, by spans."""

    result: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stored(Event):
    """KV of ``tokens`` new tokens (``nbytes``) is now held by ``tier``."""

    tokens: int
    nbytes: int
    tier: str


@dataclass(frozen=True, kw_only=True)
class Evicted(Event):
    """KV of ``tokens`` tokens (``nbytes``) left ``tier``.

    Where they were one run of a stored sequence, ``start`` is its position there and ``digest`` the hash of its ids.
    """

    tokens: int
    nbytes: int
    tier: str
    start: int = 0
    digest: int | None = None


@dataclass(frozen=True, kw_only=True)
class TierRead(Event):
    """KV of ``tokens`` tokens (``nbytes``) was brought to memory from ``tier`` in ``seconds``.

    For ``waited`` seconds of these the request could do nothing else; of the ``layers``, ``ahead`` were there before
    they were needed.
    """

    tokens: int
    nbytes: int
    tier: str
    seconds: float
    waited: float = 0.0
    layers: int = 0
    ahead: int = 0


@dataclass(frozen=True, kw_only=True)
class StoreFault(Event):
    """An entry of ``tier``, or all of it, could not be used: a miss instead; ``why`` says so in one line."""

    tier: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Fallback(Event):
    """Something asked for was done another way; ``why`` says so in one line."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Waiting(Event):
    """A request waits for another one to end; ``why`` says in one line who holds the session."""

    why: str


@dataclass(frozen=True, kw_only=True)
class NotKept(Event):
    """KV did not fit into ``tier``, as ``why`` says: it needs ``nbytes``, of at most ``limit``."""

    nbytes: int
    limit: int
    tier: str
    why: str


@dataclass(frozen=True, kw_only=True)
class GateDecided(Event):
    """A chunk ``name`` in rows ``[start, stop)`` may be reused with approximated offsets, or not, as ``why`` says.

    ``anchors`` are those there are for it, ``entropy`` of their weights and its ``bound`` are bits, ``kl`` is the mean
    KL of reuse in nats, ``explained`` the share of offsets that approximation gets right; None: not known. ``measure``:
    it is computed in full to measure the KL.
    """

    name: str
    start: int
    stop: int
    accepted: bool
    anchors: int
    entropy: float | None = None
    bound: float | None = None
    kl: float | None = None
    explained: float | None = None
    why: str = ""
    measure: bool = False


@dataclass(frozen=True, kw_only=True)
class AnchorsKept(Event):
    """The session now keeps so many ``anchors``, of ``nbytes`` of at most ``limit``; ``evicted`` had to go."""

    anchors: int
    nbytes: int
    limit: int
    evicted: int


@dataclass(frozen=True, kw_only=True)
class BatchProgress(Event):
    """Of the ``total`` prompts of a batch ``done`` have ended, with ``generated`` tokens in all."""

    done: int
    total: int
    generated: int


@dataclass(frozen=True, kw_only=True)
class Ranked(Event):
    """Of ``documents`` the one given at place ``best`` came first; ``reused`` of the ``prompt``'s tokens had KV."""

    strategy: str
    documents: int
    best: int
    prompt: int
    reused: int
    compute_share: float


@dataclass(frozen=True, kw_only=True)
class Advanced(Event):
    """Long ``work`` (such as ``compare``) has done ``done`` of about ``total`` steps and begins what ``doing`` names.

    ``found`` is what there is so far, as ``to_dict`` of what will be returned gives it; empty where there is nothing.
    The last event of a work is ``over``, also where it was stopped or failed.
    """

    work: str
    done: int
    total: int
    doing: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    over: bool = False


Listener = Callable[[Event], None]


class Bus:
    """Hands each event to its listeners in the order they came; a listener that raises is reported once and dropped."""

    def __init__(self) -> None:
        """Start without listeners."""
        self._listeners: list[Listener] = []

    def emit(self, event: Event) -> None:
        """Give ``event`` to every listener."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001  (instrumentation may not break a run)
                self.drop(listener)
                warnings.warn(f"nbkv: a listener was dropped after {type(error).__name__}: {error}", stacklevel=2)

    def add(self, listener: Listener) -> None:
        """Let ``listener`` hear every event from now on."""
        self._listeners.append(listener)

    def drop(self, listener: Listener) -> None:
        """Let ``listener`` hear no more events; unknown listeners are ignored."""
        self._listeners = [known for known in self._listeners if known is not listener]

    @property
    def heard(self) -> bool:
        """Whether anybody listens (spares building events for nobody)."""
        return bool(self._listeners)
