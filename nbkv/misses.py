"""Why tokens of a prompt were not reused: plain data, one row a cause and span, with what its cure would save."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from nbkv import show

if TYPE_CHECKING:
    import pandas as pd


class Cause(StrEnum):
    """Why a token's KV were computed although something like it may have been computed before."""

    NEW = "new"
    EDITED = "edited"
    MERGED = "merged"
    TEMPLATE = "template"
    THINKING = "thinking"
    MOVED = "moved"
    ADAPTER = "adapter"
    DTYPE = "dtype"
    TENANT = "tenant"
    ELSEWHERE = "elsewhere"
    NOT_KEPT = "not kept"
    EVICTED = "evicted"
    CLEARED = "cleared"
    CHECKPOINT = "checkpoint"
    BREAK_EVEN = "break-even"
    STRATEGY = "strategy"
    CHOSEN = "chosen"
    LAST = "last"


@dataclass(frozen=True, kw_only=True)
class Miss:
    """Prompt tokens ``[start, stop)`` that ran for one ``cause``; ``detail`` says what happened, ``fix`` what to do.

    ``saves``: how many of them would not have run with the fix. ``seconds``: what that is worth by the measured cost
    model, None where costs are not known; below 0 where the fix costs more than it saves. Where text differs, ``was``
    is what stood there before and ``now`` what stands there in this prompt.
    """

    cause: Cause
    start: int
    stop: int
    saves: int
    detail: str
    fix: str = ""
    seconds: float | None = None
    was: str = ""
    now: str = ""

    @property
    def tokens(self) -> int:
        """Return how many tokens it is about."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Why:
    """The misses of one request, by position in its prompt: every token that was not reused is in exactly one."""

    misses: tuple[Miss, ...]
    prompt: int
    ttft_s: float

    def __iter__(self) -> Iterator[Miss]:
        """Yield the misses."""
        return iter(self.misses)

    def __len__(self) -> int:
        """Return the number of misses."""
        return len(self.misses)

    def __getitem__(self, index: int) -> Miss:
        """Return one miss."""
        return self.misses[index]

    def of(self, cause: Cause | str) -> tuple[Miss, ...]:
        """Return the misses of one cause."""
        return tuple(miss for miss in self.misses if miss.cause == Cause(cause))

    @property
    def seconds(self) -> float | None:
        """Return what all fixes that pay would save together; None where costs are not known."""
        known = [miss.seconds for miss in self.misses if miss.seconds is not None]
        return sum(max(0.0, each) for each in known) if known else None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        misses = [asdict(miss) | {"cause": str(miss.cause)} for miss in self.misses]
        return {
            "kind": "why",
            "prompt": self.prompt,
            "ttft_s": self.ttft_s,
            "seconds": self.seconds,
            "misses": misses,
        }

    def to_frame(self) -> pd.DataFrame:
        """Return one row a miss as a DataFrame."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame(self.to_dict()["misses"])

    def __repr__(self) -> str:
        """Return the misses as text."""
        return show.why_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.why_html(self.to_dict())
