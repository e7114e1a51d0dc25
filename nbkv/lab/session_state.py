"""What the panel shows of one session: running figures, the last requests with their maps, and what it does now."""

from __future__ import annotations

import time
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nbkv.errors import NbkvError
from nbkv.events import Advanced, Event, Evicted, Fallback, Finished, Layer, NotKept, Started, Stored, Token, Waiting
from nbkv.scalars import is_whole
from nbkv.show.badge import badge
from nbkv.show.columns import outline
from nbkv.show.why import headline, why_data

if TYPE_CHECKING:
    from nbkv.session.session import Session

RECENT = 6  # requests
POINTS = 40  # of the TTFT line
FIGURES = ("strategy", "prompt", "reused", "recomputed", "fresh", "hit_rate", "compute_share", "ttft_s", "tpot_s")
ENDS = ("total_s", "generated", "finish_reason", "kl", "top1")


class SessionState:
    """Hears one session; ``state`` is plain small data. What is asked of it is guarded by whoever owns it."""

    def __init__(self, number: int, session: Session) -> None:
        """Begin with what the session has already counted."""
        self.number = number
        self.session = weakref.ref(session)
        self.stopping = self.clearing = False
        known = session.stats.to_dict()
        self._name, self._model = session.name, session.model_name
        self._requests, self._fallbacks = known["requests"], known["fallbacks"]
        self._prompt, self._reused = known["prompt_tokens"], known["reused"]
        self._ttft: deque[float] = deque(maxlen=POINTS)
        self._recent: deque[dict[str, Any]] = deque(maxlen=RECENT)
        self._now: dict[str, Any] | None = None
        self._said: list[str] = []
        self._work: dict[str, Any] | None = None
        self._first_token_at = 0.0
        self._tiers: list[dict[str, Any]] = []
        self._tiers_changed = True

    def hear(self, event: Event) -> None:
        """Take an event into account."""
        if isinstance(event, Token):
            self._token()
        elif isinstance(event, Layer):
            self._layer(event)
        elif isinstance(event, Started):
            self.stopping, self._said = False, []
            self._now = {"request": event.request, "strategy": event.strategy, "prompt": event.prompt}
            self._now |= {"layer": 0, "layers": 0, "tokens": 0, "tokens_per_s": 0.0}
        elif isinstance(event, Finished):
            self._finished(event)
        elif isinstance(event, Advanced):
            self._advanced(event)
        elif isinstance(event, (Stored, Evicted)):
            self._tiers_changed = True
        elif isinstance(event, Fallback):
            self._fallbacks += 1
        elif isinstance(event, (NotKept, Waiting)):
            self._said = [*(line for line in self._said if line != event.why), event.why]

    def cleared(self) -> None:
        """Take note that the store is empty now."""
        self.clearing, self._tiers_changed, self._said = False, True, []

    def rest(self) -> None:
        """Take note that nothing runs."""
        self._now, self._work, self.stopping = None, None, False

    def read_tiers(self) -> None:
        """Look at the store again if it may have changed."""
        session = self.session()
        if not self._tiers_changed or session is None:
            return
        self._tiers_changed = False
        with suppress(NbkvError):  # closed meanwhile
            self._tiers = session.store.figures()

    def explain(self, request: int) -> dict[str, Any] | None:
        """Return why tokens of ``request`` ran, in words; ask outside of whatever guards this."""
        session = self.session()
        found = session.why(request) if session is not None and is_whole(request, 1) else None
        if found is None:
            return None
        told = found.to_dict()
        return why_data(told) or {"headline": headline(told), "rows": [], "texts": []}

    def explained(self, request: int, why: dict[str, Any] | None) -> None:
        """Show ``why`` with a request."""
        for each in self._recent:
            if each["request"] == request:
                each["why"] = why

    def state(self) -> dict[str, Any]:
        """Return all that is shown."""
        session = self.session()
        return {
            "id": self.number,
            "name": self._name,
            "model": self._model,
            "strategy": "" if session is None else session.strategy.spec,
            "requests": self._requests,
            "hit_rate": self._reused / self._prompt if self._prompt else None,
            "fallbacks": self._fallbacks,
            "ttft_s": list(self._ttft),
            "tiers": self._tiers,
            "recent": [dict(each) for each in self._recent],
            "now": self._now and dict(self._now),
            "said": list(self._said),
            "work": self._work and dict(self._work),
            "stopping": self.stopping,
            "clearing": self.clearing,
        }

    def _token(self) -> None:
        if self._now is None:
            return
        at = time.perf_counter()
        self._now["tokens"] += 1
        if self._now["tokens"] == 1:
            self._first_token_at = at
        else:
            self._now["tokens_per_s"] = (self._now["tokens"] - 1) / max(1e-9, at - self._first_token_at)

    def _layer(self, event: Layer) -> None:
        if self._now is not None and not self._now["tokens"]:
            self._now["layer"], self._now["layers"] = event.index + 1, event.n_layers

    def _advanced(self, event: Advanced) -> None:
        if event.over:
            self.rest()
            return
        if event.done == 0:
            self.stopping = False
        self._work = {"work": event.work, "doing": event.doing, "done": event.done, "total": event.total}

    def _finished(self, event: Finished) -> None:
        result = event.result
        if self._now is None or self._now["request"] == event.request:  # others of a batch go on
            self.rest()
        self._tiers_changed = True
        self._requests += 1
        self._prompt += result["prompt"]
        self._reused += result["reused"]
        if result["generated"]:
            self._ttft.append(result["ttft_s"])
        shown = {"request": event.request} | {name: result[name] for name in (*FIGURES, *ENDS)}
        measured = {name: result[name] for name in ("kl", "diverges_at", "floor")}
        shown["honesty"] = badge(result["exact"], measured)
        self._recent.appendleft(shown | {"map": outline(result | {"tokens": {"prompt": result["prompt"]}})})
