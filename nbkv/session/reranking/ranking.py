"""A ranking: documents by what a query's tokens attended to, and what it took to find out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nbkv import show
from nbkv.errors import BadOption
from nbkv.prompts.prompt import PromptLike
from nbkv.result import Chunk, Compute, Provenance, Result, Tokens, runs
from nbkv.scalars import is_whole

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Document = str | Chunk | Result


@dataclass(frozen=True, kw_only=True)
class RankFidelity:
    """Distance to the ranking that KV computed in full give: what of its decision is left.

    ``tau`` is Kendall's over all pairs of documents, ``top1`` whether the best document is the same, ``gap`` the
    largest difference of a document's score, in units of the spread (standard deviation) of full's scores.
    """

    tau: float
    top1: bool
    gap: float

    @classmethod
    def between(cls, scores: Sequence[float], full: Sequence[float]) -> RankFidelity:
        """Return how far ``scores`` are from ``full``'s of the same documents."""
        mine, other = np.asarray(scores), np.asarray(full)
        first, second = np.triu_indices(len(mine), 1)
        agree = np.sign(mine[first] - mine[second]) * np.sign(other[first] - other[second])
        spread = float(other.std()) or 1.0
        return cls(
            tau=float(agree.mean()) if len(agree) else 1.0,
            top1=bool(mine.argmax() == other.argmax()),
            gap=float(np.abs(mine - other).max()) / spread,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """What ``session.rerank`` returns: ``scores`` of the ``documents`` in the order given, ``order`` best first.

    ``token_scores[i]`` ``[n_i]`` are those of the tokens ``pieces[i]`` of document ``i``, nan where a token was dropped
    as an outlier. ``layers`` are ``[first, last)``. ``prompt`` is what was read: asked with ``prefix``, it is in the
    store up to its query. ``provenance`` uint8 ``[n]``, ``tokens`` and ``compute`` are those of that prompt;
    ``compute.select`` is the calibration, and what a strategy ran to choose rows.
    """

    query: str
    documents: tuple[Document, ...]
    names: tuple[str, ...]
    scores: tuple[float, ...]
    token_scores: tuple[NDArray[np.float64], ...]
    pieces: tuple[tuple[str, ...], ...]
    prompt: PromptLike
    strategy: str
    model: str
    layers: tuple[int, int]
    provenance: NDArray[np.uint8]
    compute: Compute
    seconds: float
    fidelity: RankFidelity | None = None
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.documents)

    @property
    def order(self) -> tuple[int, ...]:
        """Return the places of the documents as given, the best first; of equal ones the earlier first."""
        return tuple(int(at) for at in np.argsort([-score for score in self.scores], kind="stable"))

    @property
    def tokens(self) -> Tokens:
        """Return the prompt's tokens by where their KV came from."""
        count = np.bincount(self.provenance, minlength=len(Provenance)).tolist()
        fresh, again = count[Provenance.FRESH], count[Provenance.RECOMPUTED]
        whole = len(self.provenance)
        return Tokens(prompt=whole, reused=whole - fresh - again, recomputed=again, fresh=fresh)

    def top(self, k: int = 1) -> list[Document]:
        """Return the ``k`` best documents as they were given, the best first; raises ``BadOption``."""
        if not is_whole(k, 1):
            message = f"k={k!r:.60} is not accepted: a whole number >= 1 of documents"
            raise BadOption(message)
        return [self.documents[at] for at in self.order[: int(k)]]

    def rows(self) -> list[dict[str, Any]]:
        """Return one dict a document, the best first, of the columns of ``to_frame``."""
        return [
            {
                "rank": rank,
                "place": at,
                "document": self.names[at],
                "score": self.scores[at],
                "tokens": len(self.pieces[at]),
                "dropped": int(np.isnan(self.token_scores[at]).sum()),
                "text": "".join(self.pieces[at]),
            }
            for rank, at in enumerate(self.order, 1)
        ]

    def to_frame(self) -> pd.DataFrame:
        """Return one row a document, the best first: ``place`` is where it was given, ``dropped`` counts outliers."""
        import pandas as pd  # noqa: PLC0415  (heavy, only for tables)

        return pd.DataFrame(self.rows())

    def to_dict(self) -> dict[str, Any]:
        """Return figures and documents as JSON-able data."""
        return {
            "kind": "ranking",
            "query": self.query,
            "model": self.model,
            "strategy": self.strategy,
            "layers": list(self.layers),
            "order": list(self.order),
            "scores": list(self.scores),
            "tokens": asdict(self.tokens),
            "compute": asdict(self.compute),
            "provenance": [[name, start, stop] for name, start, stop in self._spans()],
            "seconds": self.seconds,
            "fidelity": None if self.fidelity is None else asdict(self.fidelity),
            "notes": list(self.notes),
            "rows": self.rows(),
            "marked": {at: self._marked(at) for at in self.order[:3]},
        }

    def __repr__(self) -> str:
        """Return the documents in their order, with scores, and what it took."""
        return show.ranking_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.ranking_html(self.to_dict())

    def _spans(self) -> list[tuple[str, int, int]]:
        return [(Provenance(int(value)).name, start, stop) for value, start, stop in runs(self.provenance)]

    def _marked(self, at: int) -> list[tuple[str, float | None]]:
        """Return the pieces of a document with their scores, None for those that were dropped."""
        scored = zip(self.pieces[at], self.token_scores[at].tolist(), strict=True)
        return [(piece, None if np.isnan(score) else score) for piece, score in scored]
