"""What a dashboard shows, gathered from a session's events: one point a request, and how far the present one is."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from nbkv.errors import NbkvError
from nbkv.events import Event, Fallback, Finished, Layer, Started, Token

if TYPE_CHECKING:
    from nbkv.session.session import Session

POINTS = 60  # requests shown


class History:
    """Hears a session's events; ``state`` gives everything as small JSON-able data. Safe from any thread."""

    def __init__(self, session: Session) -> None:
        """Begin with the requests the session has served already."""
        self._session = session
        self._lock = threading.Lock()
        self._rows: deque[dict[str, Any]] = deque(maxlen=POINTS)
        self._live: dict[str, Any] | None = None
        self._tiers: list[dict[str, Any]] = []
        self._changes, self._looked = (
            0,
            -1,
        )  # of the store: how many there were, and before which the tiers were looked at
        self.reset()
        for row in session.history().to_dict("records"):
            self._add(int(row["request"]), {str(key): value for key, value in row.items()})
        self._fallbacks = session.stats.fallbacks

    def __call__(self, event: Event) -> None:
        """Take an event into account."""
        with self._lock:
            if isinstance(event, Token):
                self._token()
                return
            self._changes += 1  # anything but a token may have changed the store
            if isinstance(event, Started):
                about = {"request": event.request, "strategy": event.strategy, "prompt": event.prompt}
                self._live = about | {"layer": 0, "layers": 0, "tokens": 0, "since": 0.0}
            elif isinstance(event, Layer) and self._live is not None:
                self._live |= {"layer": event.index + 1, "layers": event.n_layers}
            elif isinstance(event, Fallback):
                self._fallbacks += 1
            elif isinstance(event, Finished):
                if self._live is not None and self._live["request"] == event.request:  # others of a batch go on
                    self._live = None
                self._add(event.request, event.result)

    def reset(self) -> None:
        """Begin anew; the session's own figures and its store stay as they are."""
        tiers = self._figures()
        with self._lock:
            self._rows.clear()
            self._requests = self._prompt = self._reused = self._fallbacks = 0
            self._evicted = sum(tier["evictions"] for tier in tiers)

    def stale(self) -> None:
        """Look at the store again for the next state: what clears or replaces it makes no event."""
        with self._lock:
            self._changes += 1

    def state(self) -> dict[str, Any]:
        """Return all figures: those of requests since the beginning, one row for each of the last ``POINTS``."""
        tiers = self._figures()
        with self._lock:
            evictions = sum(tier["evictions"] for tier in tiers)
            self._evicted = min(self._evicted, evictions)  # a new store counts from zero
            return {
                "kind": "dashboard",
                "session": self._session.name,
                "model": self._session.model_name,
                "strategy": self._session.strategy.spec,
                "closed": self._session.closed,
                "requests": self._requests,
                "hit_rate": self._reused / self._prompt if self._prompt else None,
                "ttft_s": _median([row["ttft_s"] for row in self._rows]),
                "tokens_per_s": _median([row["tokens_per_s"] for row in self._rows]),
                "kl": _median([row["kl"] for row in self._rows]),
                "fallbacks": self._fallbacks,
                "evictions": evictions - self._evicted,
                "tiers": [{key: tier[key] for key in ("tier", "entries", "bytes", "limit")} for tier in tiers],
                "rows": list(self._rows),
            }

    def progress(self) -> dict[str, Any]:
        """Return how far the present request is; nothing between requests."""
        with self._lock:
            if self._live is None:
                return {}
            live = dict(self._live)
        spent = time.perf_counter() - live.pop("since")
        return live | {"tokens_per_s": (live["tokens"] - 1) / spent if live["tokens"] > 1 else None}

    def _add(self, number: int, result: dict[str, Any]) -> None:
        self._requests += 1
        self._prompt += int(result["prompt"])
        self._reused += int(result["reused"])
        speed = 1 / result["tpot_s"] if result["tpot_s"] else None
        wanted = ("strategy", "hit_rate", "ttft_s", "kl", "top1")
        row = {name: _plain(result[name]) for name in wanted} | {"tokens_per_s": speed}
        self._rows.append({"request": number} | row)

    def _token(self) -> None:
        live = self._live
        if live is None:
            return
        live["since"] = live["since"] or time.perf_counter()
        live["tokens"] += 1

    def _figures(self) -> list[dict[str, Any]]:
        """Return the tiers. The store is asked outside the lock: it tells of evictions while it holds its own."""
        with self._lock:
            changes, known = self._changes, self._tiers
            if self._looked == changes:
                return known
        try:
            known = [dict(tier) for tier in self._session.store.figures()]
        except NbkvError:  # closed meanwhile
            known = []
        with self._lock:
            self._tiers, self._looked = known, changes
        return known


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _plain(value: Any) -> Any:  # noqa: ANN401  (any JSON value)
    """Return ``value``; None for a number that is not known, which a table writes as nan."""
    return None if value != value else value  # noqa: PLR0124
