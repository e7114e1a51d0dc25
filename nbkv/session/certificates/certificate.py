"""What may be promised of approximations on prompts like those given: the table, the choice, and the reason for it."""

from __future__ import annotations

import statistics
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nbkv import show
from nbkv.context import Context
from nbkv.families.routing import binomial
from nbkv.models.adapter import ModelAdapter
from nbkv.session.certificates.calibration import Calibration, Question, build, listed
from nbkv.session.certificates.candidates import candidates
from nbkv.session.certificates.guarantee import Guarantee
from nbkv.session.certificates.ladder import Step, cheapest, wanting
from nbkv.session.encoding.chunks import settled_sink
from nbkv.session.encoding.sinks import check_kind
from nbkv.show.units import plural
from nbkv.strategy import Strategy

if TYPE_CHECKING:
    import pandas as pd

_VERDICTS = (
    "certified",
    "refused",
    "not tested",
)  # down a ladder: the steps that stand, the first that fails, the rest


class HasAdapter(Protocol):
    """Something that runs a model: a session."""

    @property
    def adapter(self) -> ModelAdapter:
        """Return the model as nbkv runs it."""


@dataclass(frozen=True)
class Certificate:
    """With confidence 1 - ``alpha``, under every certified row at most a share ``rate`` of prompts is above ``max_kl``.

    ``rows`` holds one dict a strategy: ``strategy``, ``budget`` (None: exact, or an option of another kind),
    ``verdict`` (``exact``, ``certified``, ``refused``; ``not tested``: a safer step was refused), ``n`` (prompts
    measured), ``above`` (of them above ``max_kl``), ``p`` (the p-value) and ``bound`` (Clopper and Pearson's, on the
    share of prompts above) at the row's part of ``alpha``, ``kl`` (mean) and ``kl_max`` (worst prompt) in nats,
    ``compute_share`` (mean), ``ttft_ratio`` (full's median over its own), ``kls`` (each prompt's mean KL over the
    answer). Figures are None where the prompts were not all measured; exact rows are not tested, what they differ by
    from full is rounding.

    ``chosen`` is the certified or exact row with the smallest compute share (None: there is none), ``why`` says what is
    promised of it, or what it would take. ``n`` prompts were given, ``needed`` are the fewest that certify anything,
    ``allowed`` of ``n`` may be above. ``floor`` is the model's own noise (nats). It is about the model with
    ``fingerprint`` in ``dtype`` and chunks encoded behind ``sinks`` (token ids; ``sink`` is what was asked for).
    Where it was ``stopped`` (how far it came; else "") nothing is certified, whatever the prompts before showed.
    """

    model: str
    fingerprint: str
    dtype: str
    sink: str
    sinks: tuple[tuple[int, ...], ...]
    max_kl: float
    rate: float
    alpha: float
    n: int
    needed: int
    allowed: int
    floor: float
    rows: tuple[dict[str, Any], ...]
    chosen: str | None
    why: str
    notes: tuple[str, ...] = ()
    stopped: str = ""

    @property
    def ok(self) -> bool:
        """Return whether anything may be served."""
        return self.chosen is not None

    def is_about(self, session: HasAdapter) -> bool:
        """Return whether ``session`` runs the very model, in the very dtype, that was measured."""
        return (session.adapter.fingerprint, str(session.adapter.dtype)) == (self.fingerprint, self.dtype)

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as JSON-able data."""
        return {"kind": "certificate"} | asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Certificate:
        """Return the certificate that ``to_dict`` made ``data`` of, also by way of JSON."""
        listed = {"sinks": tuple(map(tuple, data["sinks"])), "rows": tuple(data["rows"]), "notes": tuple(data["notes"])}
        return cls(**{name: value for name, value in (data | listed).items() if name != "kind"})

    def to_frame(self) -> pd.DataFrame:
        """Return one row a strategy as a DataFrame, without the single prompts' ``kls``."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame([{name: row[name] for name in row if name != "kls"} for row in self.rows])

    def __repr__(self) -> str:
        """Return the reason and the table as text."""
        return show.certificate_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.certificate_html(self.to_dict())


def certify(
    questions: Iterable[Question],
    guarantee: Guarantee,
    strategies: str | Sequence[str | Strategy] | None,
    sink: str,
    ctx: Context,
) -> Certificate:
    """Return what of ``strategies`` (None: the usual ones) holds ``guarantee`` on prompts like ``questions``.

    Raises ``BadPrompt``, ``BadOption`` (also for too few prompts), ``UnknownName``, ``UnsupportedModel``, all before
    the model runs once.
    """
    check_kind(sink, ctx.codec)
    asked = listed(questions)
    tried = candidates(strategies, ctx, chunks=any(prompt.chunks for prompt in build(asked, "none", ctx)))
    guarantee.check(len(asked), len(tried.ladders))
    kind = settled_sink(ctx, sink)
    prompts = build(asked, kind, ctx)
    work = _Certifying(Calibration(prompts, tried, guarantee, kind, ctx), sink, ctx)
    return work.certificate(ctx.carry_out(work))


class _Certifying:
    """A certificate in the making."""

    work = "certify"

    def __init__(self, full: Calibration, sink: str, ctx: Context) -> None:
        self._full, self._sink, self._ctx = full, sink, ctx
        self.total = len(full.prompts)

    def steps(self) -> Generator[str]:
        return self._full.steps()

    def certificate(self, stopped: str = "") -> Certificate:
        full, ctx = self._full, self._ctx
        table, prompts = _Table(full, stopped), full.prompts
        return Certificate(
            model=ctx.adapter.name,
            fingerprint=ctx.model,
            dtype=str(ctx.adapter.dtype),
            sink=self._sink,
            sinks=tuple(sorted({chunk.sink for prompt in prompts for chunk, _, _ in prompt.chunks})),
            **asdict(full.guarantee),
            n=len(prompts),
            needed=full.guarantee.needed(len(full.tried.ladders)),
            allowed=full.allowed,
            floor=full.floor,
            rows=tuple(table.rows()),
            chosen=None if table.best is None else table.best.spec,
            why=f"{stopped}: nothing is certified" if stopped else table.why(),
            notes=tuple(table.notes(repeated=len(prompts) - len({prompt.ids for prompt in prompts}))),
            stopped=stopped,
        )

    def found(self) -> dict[str, Any]:
        return self.certificate(f"{len(self._full.ttfts)} of {plural(self.total, 'prompt')} run").to_dict()


class _Table:
    """What was tried and measured, as the certificate tells it; of one that was stopped, without a verdict."""

    def __init__(self, full: Calibration, stopped: str) -> None:
        self._tried, self._guarantee, self._full = full.tried, full.guarantee, full
        self._n, self._stopped = len(full.prompts), stopped
        ladders = () if stopped else self._tried.ladders
        stand = [ladder.certified(self._guarantee.max_kl, full.allowed) for ladder in ladders]
        self._certified = [step for steps in stand for step in steps]
        self.best = None if stopped else cheapest([*self._tried.exact, *self._certified])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, exact strategies first, then each ladder from its safest step down."""
        for step in self._tried.exact:
            yield self._row(step, "exact")
        for ladder in self._tried.ladders:
            stand = ladder.certified(self._guarantee.max_kl, self._full.allowed)
            for at, step in enumerate(ladder.steps):
                yield self._row(step, _VERDICTS[2 if self._stopped else min(max(0, at - len(stand) + 1), 2)])

    def why(self) -> str:
        """Return what is promised of the best, or what it would take."""
        failed = (
            "" if self._certified or not self._tried.ladders else f"no approximation is certified ({self._wanting()})"
        )
        if self.best is None:
            return failed
        if self.best in self._certified:
            return f"{self.best.spec}: {self._guarantee}"
        return f"{self.best.spec}, which is exact: {failed or 'no approximation that is certified computes less'}"

    def notes(self, repeated: int) -> Iterator[str]:
        """Yield what should be known besides; ``repeated`` prompts are the same as another one."""
        if repeated:
            yield f"{repeated} of {self._n} prompts repeat another: right only where prompts to come repeat as often"
        if self.best and self._ratio(self.best) < 1:
            yield f"{self.best.spec} came to its first token later than full here, whatever its compute share"

    def _wanting(self) -> str:
        return wanting(self._tried.ladders, self._guarantee, self._n)

    def _ratio(self, step: Step) -> float:
        return statistics.median(self._full.ttfts) / statistics.median(step.ttfts)

    def _row(self, step: Step, verdict: str) -> dict[str, Any]:
        given, n, above = self._guarantee, self._n, step.above(self._guarantee.max_kl)
        done = len(step.kls) == (len(self._full.ttfts) if self._stopped else n) > 0
        tested = done and verdict in {"certified", "refused"}
        level = given.level(len(self._tried.ladders))
        return {
            "strategy": step.spec,
            "budget": step.budget,
            "verdict": verdict,
            "n": len(step.kls),
            "above": None if verdict == "exact" else above,
            "p": binomial.at_most(above, n, given.rate) if tested else None,
            "bound": binomial.upper_bound(above, n, level) if tested else None,
            "kl": statistics.fmean(step.kls) if done else None,
            "kl_max": max(step.kls) if done else None,
            "compute_share": step.share if done else None,
            "ttft_ratio": self._ratio(step) if done else None,
            "kls": list(step.kls),
        }
