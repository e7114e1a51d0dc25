"""One finished request: its answer, and where the KV of its prompt came from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nbkv import show
from nbkv.errors import BadOption
from nbkv.misses import Why
from nbkv.result.chunk import Chunk
from nbkv.result.figures import Compute, Fidelity, Timing, Tokens
from nbkv.result.provenance import Provenance, runs

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Explains(Protocol):
    """Can say of a result why tokens were not reused, in a while: it looks things up only when called."""

    @property
    def request(self) -> int:
        """Return the number of the request in its session."""

    def __call__(self, result: Result, *, measure: bool) -> Why:
        """Return the misses of ``result``; with ``measure`` costs that are not known yet are measured for it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """One finished (or interrupted) request.

    ``provenance`` (uint8 ``[n_prompt]``) holds ``Provenance`` values, ``kept`` (bool ``[n_prompt]``) is false where a
    token's KV was dropped; ``kv_bytes`` are the bytes of KV of prompt and answer by where they are held (and, as
    ``peak``, the most that was held at any moment, where that is bounded); ``prompt_pieces`` are the prompt's tokens as
    text, for the token map. ``decoding`` (None for causal models) says how a block-diffusion model came to its answer:
    ``block``, ``unmask``, ``blocks``, ``forwards`` (passes over a block, clean ones included), ``tokens_per_forward``,
    and what its strategy found. ``deviation`` (float32 ``[n_prompt]``): how far fresh K/V were from the cached ones,
    where and as a strategy measures that (nan: not compared). ``markdown``: a chat model wrote the answer.
    ``said_before``: those of ``notes`` that an earlier answer of the session had as well. ``explain`` is what ``why``
    asks.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    finish_reason: str
    strategy: str
    model: str
    fingerprint: str
    timing: Timing
    provenance: NDArray[np.uint8]
    kept: NDArray[np.bool_]
    compute: Compute
    kv_bytes: dict[str, int] = field(default_factory=dict)
    fidelity: Fidelity | None = None
    notes: tuple[str, ...] = ()
    prompt_pieces: tuple[str, ...] = ()
    chunks: tuple[tuple[str, int, int], ...] = ()
    lineage: str = "exact"
    decoding: dict[str, Any] | None = None
    deviation: NDArray[np.float32] | None = None
    markdown: bool = False
    said_before: tuple[str, ...] = ()
    explain: Explains | None = field(default=None, repr=False)

    @property
    def tokens(self) -> Tokens:
        """Return the prompt's token counts, which are sums over ``provenance``."""
        counts = np.bincount(self.provenance, minlength=len(Provenance))
        reused = counts[Provenance.PREFIX] + counts[Provenance.CHUNK] + counts[Provenance.CORRECTED]
        return Tokens(
            prompt=len(self.provenance),
            reused=int(reused),
            recomputed=int(counts[Provenance.RECOMPUTED]),
            fresh=int(counts[Provenance.FRESH]),
        )

    @property
    def hit_rate(self) -> float:
        """Return the reused share of the prompt, between 0 and 1."""
        tokens = self.tokens
        return tokens.reused / tokens.prompt if tokens.prompt else 0.0

    @property
    def spans(self) -> list[dict[str, Any]]:
        """Return ``provenance`` as runs of equal neighbours: source, start, stop."""
        return [
            {"source": Provenance(value).name, "start": start, "stop": stop}
            for value, start, stop in runs(self.provenance)
        ]

    @property
    def dropped(self) -> list[list[int]]:
        """Return the spans of tokens whose KV were dropped."""
        return [[start, stop] for kept, start, stop in runs(self.kept) if not kept]

    @property
    def honesty(self) -> str:
        """Return how far the answer can be trusted to be that of ``full``: ``exact``, ``approximate, KL 0.06, …``."""
        return show.badge(self.lineage == "exact", None if self.fidelity is None else asdict(self.fidelity))

    @property
    def why(self) -> Why:
        """Return why tokens of the prompt were not reused, and what the cure of each cause would save.

        Found out now, against what the sessions of this process have computed; seconds are by a cost model, which is
        measured at the first call for a model (a second or two). Empty for a result that was pickled or made by hand.
        """
        if self.explain is None:
            return Why(misses=(), prompt=len(self.provenance), ttft_s=self.timing.ttft_s)
        return self.explain(self, measure=True)

    def chunk(self, name: str = "answer") -> Chunk:
        """Return the answer as a chunk ``name`` of the very token ids that were decoded; raises ``BadOption``."""
        if not isinstance(name, str) or not name:
            message = f"the name of a chunk is {name!r:.60} (accepted: text)"
            raise BadOption(message)
        return Chunk(
            name=name,
            text=self.text,
            token_ids=self.token_ids,
            sink=self.prompt_ids,
            model=self.fingerprint,
            lineage=self.lineage,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data; arrays as runs of equal values."""
        return {
            "kind": "result",
            "text": self.text,
            "token_ids": list(self.token_ids),
            "prompt_ids": list(self.prompt_ids),
            "finish_reason": self.finish_reason,
            "strategy": self.strategy,
            "model": self.model,
            "timing": asdict(self.timing),
            "tokens": asdict(self.tokens),
            "hit_rate": self.hit_rate,
            "compute": asdict(self.compute),
            "provenance": self.spans,
            "dropped": self.dropped,
            "deviation": None if self.deviation is None else [_rounded(value) for value in self.deviation.tolist()],
            "kv_bytes": dict(self.kv_bytes),
            "fidelity": None if self.fidelity is None else asdict(self.fidelity),
            "exact": self.lineage == "exact",
            "markdown": self.markdown,
            "notes": list(self.notes),
            "said_before": list(self.said_before),
            "prompt_pieces": list(self.prompt_pieces),
            "chunks": [{"name": name, "start": start, "stop": stop} for name, start, stop in self.chunks],
            "decoding": None if self.decoding is None else dict(self.decoding),
        }

    def __repr__(self) -> str:
        """Return the text and a one-line summary."""
        return show.result_text(self.to_dict())

    def _explained(self) -> dict[str, Any]:
        """Return everything, with why tokens ran by the costs that are known already."""
        why = None if self.explain is None else self.explain(self, measure=False).to_dict()
        return self.to_dict() | {"why": why}

    def _repr_html_(self) -> str:
        return show.result_html(self._explained())

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return dict(show.result_bundle(self._explained()))


def _rounded(value: float) -> float | None:
    return float(f"{value:.3g}") if isfinite(value) else None
