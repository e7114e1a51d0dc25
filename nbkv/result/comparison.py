"""One prompt under several strategies, measured against full: a row a strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nbkv import show
from nbkv.result.result import Result

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """One prompt under several strategies, each run ``repeat`` times, turn by turn; the reference is ``full``.

    ``rows`` holds one dict a strategy: ``strategy``, medians of the timings in seconds (``ttft_s``, ``load_s``,
    ``select_s``, ``prefill_s``, ``decode_s``, ``tpot_s``), ``speedup`` (full's TTFT over its own), ``hit_rate``,
    ``reused``, ``recomputed``, ``fresh``, ``compute_share``, ``kl``, ``top1``, ``same_text``, ``text`` and ``notes``.
    Where it was ``stopped`` (how far it came; else "") rows may be missing, rest on fewer runs, or have no ``kl``.
    """

    model: str
    prompt_tokens: int
    repeat: int
    rows: tuple[dict[str, Any], ...]
    results: tuple[Result, ...]
    stopped: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the results as JSON-able data."""
        return {
            "kind": "comparison",
            "model": self.model,
            "prompt_tokens": self.prompt_tokens,
            "repeat": self.repeat,
            "rows": [row | self._exact.get(at, {}) for at, row in enumerate(self.rows)],
            "stopped": self.stopped,
        }

    @property
    def _exact(self) -> dict[int, dict[str, bool]]:
        return {at: {"exact": result.lineage == "exact"} for at, result in enumerate(self.results)}

    def to_frame(self) -> pd.DataFrame:
        """Return one row a strategy as a DataFrame."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame(list(self.rows))

    def to_csv(self, path: str | None = None) -> str | None:
        """Write the table to ``path``, or return it as text."""
        text: str | None = self.to_frame().to_csv(path, index=False)
        return text

    def __repr__(self) -> str:
        """Return the table as text."""
        return show.comparison_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.comparison_html(self.to_dict())

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return dict(show.comparison_bundle(self.to_dict(), [result.to_dict() for result in self.results]))
