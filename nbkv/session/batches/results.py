"""What became of many prompts: a Result each, or the error that names the prompt, and what all of them took."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, overload

from nbkv import show
from nbkv.errors import NbkvError
from nbkv.inference.by_batch import BatchFigures
from nbkv.result import Result

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = (
    "text", "finish_reason", "prompt_tokens", "reused", "recomputed", "fresh", "generated", "hit_rate", "compute_share",
    "ttft_s", "total_s", "error", "notes",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchResults(Sequence[Result]):
    """The results of ``session.generate_batch``, in the order of the prompts.

    ``errors`` are those of prompts that failed, by place; asking for the result of one raises it. Prompts that an
    interrupt kept from their end have ``finish_reason`` ``"interrupted"``. ``labels`` are those of the column that
    the prompts came from. ``seconds`` is the time of the whole batch, ``figures`` are its passes and bytes.
    """

    results: tuple[Result | None, ...]
    errors: dict[int, NbkvError]
    labels: tuple[Hashable, ...]
    strategy: str
    model: str
    seconds: float
    figures: BatchFigures = field(default_factory=BatchFigures)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self.results)

    @overload
    def __getitem__(self, at: int) -> Result: ...

    @overload
    def __getitem__(self, at: slice) -> list[Result]: ...

    def __getitem__(self, at: int | slice) -> Result | list[Result]:
        """Return the result of prompt ``at``; raises its error if it failed."""
        if isinstance(at, slice):
            return [self[number] for number in range(len(self))[at]]
        result = self.results[at]
        if result is None:
            raise self.errors[range(len(self))[at]]
        return result

    def __iter__(self) -> Iterator[Result]:
        """Yield the results; raises at the first prompt that failed."""
        return (self[at] for at in range(len(self)))

    @property
    def texts(self) -> list[str | None]:
        """Return the answers; None where a prompt failed."""
        return [None if result is None else result.text for result in self.results]

    @property
    def interrupted(self) -> int:
        """Return how many prompts have no whole answer because the batch was stopped."""
        return sum(result is not None and result.finish_reason == "interrupted" for result in self.results)

    @property
    def generated(self) -> int:
        """Return the number of tokens of all answers."""
        return sum(len(result.token_ids) for result in self.results if result is not None)

    @property
    def hit_rate(self) -> float:
        """Return the share of all prompt tokens that were reused."""
        counts = [result.tokens for result in self.results if result is not None]
        whole = sum(each.prompt for each in counts)
        return sum(each.reused for each in counts) / whole if whole else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Return generated tokens over the batch's seconds."""
        return self.generated / self.seconds if self.seconds else 0.0

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict a prompt, of the columns of ``to_frame``."""
        return [self._row(at, result) for at, result in enumerate(self.results)]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a prompt, under the labels of the column that the prompts came from."""
        import pandas as pd  # noqa: PLC0415  (heavy, only for tables)

        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame(self.rows(), columns=list(_COLUMNS), index=pd.Index(list(self.labels)))

    def to_dict(self) -> dict[str, Any]:
        """Return figures and rows as JSON-able data."""
        return {
            "kind": "batch",
            "model": self.model,
            "strategy": self.strategy,
            "seconds": self.seconds,
            "generated": self.generated,
            "tokens_per_s": self.tokens_per_s,
            "hit_rate": self.hit_rate,
            "interrupted": self.interrupted,
            "errors": [{"prompt": at, "error": str(error)} for at, error in self.errors.items()],
            "figures": asdict(self.figures),
            "notes": list(self.notes),
            "rows": [{"prompt_label": str(label)} | row for label, row in zip(self.labels, self.rows(), strict=True)],
        }

    def __repr__(self) -> str:
        """Return the figures and the first rows as text."""
        return show.batch_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.batch_html(self.to_dict())

    def _row(self, at: int, result: Result | None) -> dict[str, Any]:
        if result is None:
            return dict.fromkeys(_COLUMNS) | {"finish_reason": "failed", "error": str(self.errors[at]), "notes": ""}
        tokens = result.tokens
        return {
            "text": result.text,
            "finish_reason": result.finish_reason,
            "prompt_tokens": tokens.prompt,
            **{name: getattr(tokens, name) for name in ("reused", "recomputed", "fresh")},
            "generated": len(result.token_ids),
            "hit_rate": result.hit_rate,
            "compute_share": result.compute.share,
            "ttft_s": result.timing.ttft_s,
            "total_s": result.timing.total_s,
            "error": None,
            "notes": "; ".join(result.notes),
        }
