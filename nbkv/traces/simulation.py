"""Replays a request log through simulated stores: hit rates by policy and size, and the TTFT they let one expect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any, Protocol

from tqdm import tqdm

from nbkv import show
from nbkv.errors import BadOption
from nbkv.families.routing.cost_model import CostModel
from nbkv.models.adapter import ModelAdapter
from nbkv.stores.spec import parse_size
from nbkv.stores.tiers.policies import policy_of
from nbkv.traces.log import LoggedRequest, RequestLog, read_log, tokenizing_of
from nbkv.traces.simulated_tier import LowerTier, SimulatedTier

if TYPE_CHECKING:
    import pandas as pd

_BY_THE_TOKEN = CostModel(overhead=0.0, row=1.0, pair=0.0)  # where no model is named: what matters is tokens
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


class Costed(Protocol):
    """A session: its tokenizer, its model, and what passes cost on it."""

    @property
    def tokenizer(self) -> Any:  # noqa: ANN401  (as transformers names them)
        """Return the tokenizer."""

    @property
    def adapter(self) -> ModelAdapter:
        """Return the model."""

    @property
    def costs(self) -> CostModel:
        """Return what passes cost."""


@dataclass(frozen=True, kw_only=True)
class ReplayRow:
    """What one policy at one size would have done: tokens are counted at the first tier and, in ``below``, under it.

    ``hit_rate`` is of prompt tokens, ``block_rate`` of blocks (the last one included), both of all tiers together.
    TTFT in seconds, of prefill alone, as if each request came to an idle machine; None where no model was named.
    """

    policy: str
    size: float
    size_bytes: float | None
    hit_rate: float
    block_rate: float
    below: float
    evictions: int
    computed: int
    ttft_s: float | None
    ttft_p90_s: float | None


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A log's figures under each policy and size; ``full_s`` is the mean TTFT without any reuse."""

    log: str
    requests: int
    tokens: int
    block: int
    rows: tuple[ReplayRow, ...]
    model: str = ""
    full_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data; a size without bound is None."""
        rows = [asdict(row) | {"size": None if row.size == inf else row.size} for row in self.rows]
        return {"kind": "replay"} | asdict(self) | {"rows": rows}

    def to_frame(self) -> pd.DataFrame:
        """Return one row a policy and size as a DataFrame."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame([asdict(row) for row in self.rows])

    def svg(self) -> str:
        """Return the hit rate over the size, one line a policy, as an SVG file."""
        return show.replay_svg(self.to_dict())

    def __repr__(self) -> str:
        """Return the table as text."""
        return show.replay_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.replay_html(self.to_dict())


def replay(
    log: str | Path | RequestLog,
    *,
    sizes: Sequence[str | float] = (inf,),
    policies: Sequence[str] = ("lru",),
    below: Sequence[LowerTier] = (),
    session: Costed | None = None,
) -> Replay:
    """Replay ``log`` through a store of each of ``sizes`` under each of ``policies``, with the tiers ``below`` it.

    ``log`` is a file of JSON lines: ``hash_ids`` and ``input_length`` (Mooncake), ``prompt_ids``, or ``prompt``, a text
    or messages, for which ``session`` has the tokenizer. Records of ids may have ``token_ids`` of the answer, which is
    kept too. Sizes are tokens (a number, ``"200k"``), ``"inf"``, or with a session bytes (``"4GiB"``). Reuse is of
    prefixes, as strategy ``prefix`` makes it. Raises ``LoadError``, ``BadPrompt``, ``BadOption``.
    """
    read = (
        log
        if isinstance(log, RequestLog)
        else read_log(log, None if session is None else tokenizing_of(session.tokenizer))
    )
    each = None if session is None else _bytes_per_token(session.adapter)
    if below and each is None:
        message = (
            "a tier below the first is read at so many bytes a second: name a model to know how many tokens it has"
        )
        raise BadOption(message)
    counts = list(dict.fromkeys(_tokens(size, each) for size in sizes))
    wanted = [(policy_of(policy), size) for policy in policies for size in counts]
    costs = _BY_THE_TOKEN if session is None else session.costs
    lower = [(_tokens(tier.size, each), parse_size(str(tier.rate)) / (each or 1)) for tier in below]
    simulated = _Simulation(read, costs, lower)
    rows = [
        simulated.row(policy.name, size, None if each is None else size * each, timed=session is not None)
        for policy, size in tqdm(wanted, desc="replay", unit="store", disable=len(wanted) < 2)  # noqa: PLR2004
    ]
    full = None if session is None else fmean(costs.run(one.tokens, one.tokens) for one in read.requests)
    return Replay(
        log=read.name,
        requests=len(read.requests),
        tokens=read.tokens,
        block=read.block,
        rows=tuple(rows),
        model="" if session is None else session.adapter.name,
        full_s=full,
    )


@dataclass(frozen=True)
class _Simulation:
    """A log, what passes cost, and the tiers below the first: their tokens, and the tokens they give a second."""

    log: RequestLog
    costs: CostModel
    below: Sequence[tuple[float, float]]

    def row(self, policy: str, size: float, nbytes: float | None, *, timed: bool) -> ReplayRow:
        """Replay the log through a store of ``size`` tokens."""
        scheme, block = policy_of(policy), self.log.block
        tiers = [SimulatedTier(limit, scheme, block, self.costs) for limit in (size, *(one for one, _ in self.below))]
        hits = [self._hit(request, tiers) for request in self.log.requests]
        tokens = [_reused(request, max(known), block) for request, known in zip(self.log.requests, hits, strict=True)]
        first = [_reused(request, known[0], block) for request, known in zip(self.log.requests, hits, strict=True)]
        seconds = [self._ttft(request, known) for request, known in zip(self.log.requests, hits, strict=True)]
        total, blocks = self.log.tokens, sum(len(request.path) for request in self.log.requests)
        return ReplayRow(
            policy=policy,
            size=size,
            size_bytes=nbytes,
            hit_rate=sum(tokens) / total,
            block_rate=sum(max(known) for known in hits) / blocks,
            below=(sum(tokens) - sum(first)) / total,
            evictions=tiers[0].evictions,
            computed=total - sum(tokens),
            ttft_s=fmean(seconds) if timed else None,
            ttft_p90_s=_p90(seconds) if timed else None,
        )

    def _hit(self, request: LoggedRequest, tiers: Iterable[SimulatedTier]) -> list[int]:
        """Return how many ids of ``request`` each tier knew; all of them keep it afterwards."""
        found, able = [], (request.tokens - 1) // self.log.block
        for tier in tiers:
            found.append(tier.known(request.path))
            tier.keep((*request.path, *request.answer[:-1]), able)
        return found

    def _ttft(self, request: LoggedRequest, known: Sequence[int]) -> float:
        """Return the seconds of loading what is known, each part from the fastest tier that has it, and of the rest."""
        reused, load = 0, 0.0
        rates = [self.costs.copy, *(1 / rate for _, rate in self.below)]
        for ids, per_token in zip(known, rates, strict=True):
            more = max(0, _reused(request, ids, self.log.block) - reused)
            reused, load = reused + more, load + more * per_token
        return load + self.costs.run(request.tokens - reused, request.tokens)


def _reused(request: LoggedRequest, ids: int, block: int) -> int:
    """Return the tokens of ``ids`` blocks that need not run: never the prompt's last one."""
    return min(ids * block, request.tokens - 1)


def _p90(seconds: Sequence[float]) -> float:
    return quantiles(seconds, n=10)[-1] if len(seconds) > 1 else seconds[0]


def _bytes_per_token(adapter: ModelAdapter) -> int:
    numbers = sum(adapter.capabilities.kv_size(layer) for layer in range(adapter.n_layers))
    return numbers * adapter.dtype.itemsize


def _tokens(size: str | float, each: int | None) -> float:
    """Return the tokens that ``size`` names; raises ``BadOption`` for bytes where nobody knows what a token takes."""
    text = str(size).strip()
    number, unit = text.rstrip("kMG"), text[len(text.rstrip("kMG")) :]
    try:
        return float(number) * _UNITS[unit]
    except (ValueError, KeyError):
        pass
    nbytes = parse_size(text)
    if each is None:
        message = f"size {text!r} is in bytes: name a model to know what a token takes, or give tokens such as 200k"
        raise BadOption(message)
    return nbytes / each
