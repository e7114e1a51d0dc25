"""``nbkv.tour``: what reuse saves and costs on a user's own model and documents, and which strategy to take."""

from __future__ import annotations

import statistics
from collections.abc import Generator, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv import show
from nbkv.context import Context
from nbkv.errors import BadOption, UnsupportedModel
from nbkv.families.routing import binomial
from nbkv.registry import strategies as registry
from nbkv.scalars import is_number, is_whole
from nbkv.session.arguments import chosen_strategy
from nbkv.session.certificates.calibration import build, first_requests
from nbkv.session.certificates.candidates import sorted_out
from nbkv.session.certificates.guarantee import Guarantee
from nbkv.session.certificates.ladder import Step
from nbkv.session.encoding.chunks import settled_sink
from nbkv.session.session import Session, load
from nbkv.session.tours.documents import made_prompts, read_documents
from nbkv.show.units import plural, share
from nbkv.strategy import Strategy, parse, split
from nbkv.tasks.items import Item

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel

BUDGETS = (0.3, 0.15, 0.05)
CONFIDENCE = 0.9
FASTER = 1.1  # times: less is not worth a change
_RATE = 0.05  # of a certificate, as ``certify`` has it


@dataclass(frozen=True)
class Tour:
    """What was measured on ``n`` prompts of up to ``tokens`` tokens, made of ``documents`` documents.

    ``rows`` has one dict a strategy: ``strategy``, ``exact``, ``ttft_s`` and ``full_s`` (medians over the prompts of
    its own and full's time to the first token), ``speedup`` (their ratio), ``compute_share`` (mean), ``kl`` (mean) and
    ``kl_max`` (of the worst prompt) in nats, ``above`` (prompts above ``max_kl``) and ``at_most`` (the share of such
    prompts above it that is not excluded at 90 % confidence, all approximations at once; None for exact ones).
    ``recommended`` is the fastest of those under which no prompt was above ``max_kl``, ``full`` where none is a tenth
    faster; ``why`` says in one line what it saves and costs, ``sample`` what so many prompts do not show. ``encode_s``
    is how long the documents of a prompt took to be encoded once, ``encoded_bytes`` what their K/V take (means over the
    prompts). Where it was ``stopped`` (how far it came; else "") it rests on fewer prompts.
    """

    model: str
    n: int
    documents: int
    tokens: int
    max_kl: float
    rows: tuple[dict[str, Any], ...]
    recommended: str
    why: str
    sample: str
    encode_s: float
    encoded_bytes: float
    notes: tuple[str, ...] = ()
    stopped: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the tour as JSON-able data."""
        return {"kind": "tour"} | asdict(self)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a strategy."""
        from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

        return Frame(list(self.rows))

    def __repr__(self) -> str:
        """Return the recommendation, the table and what the sample does not show."""
        return show.tour_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.tour_html(self.to_dict())


def tour(
    model: str | Path | PreTrainedModel | Session,
    documents: str | Path | Iterable[str | Path],
    questions: str | Iterable[str] | None = None,
    *,
    n: int = 8,
    tokens: int = 1024,
    max_kl: float = 0.1,
    strategies: str | Sequence[str | Strategy] | None = None,
    **options: Any,  # noqa: ANN401  (those of ``load``)
) -> Tour:
    """Measure on the user's own ``model`` and ``documents`` what reuse saves and costs, and recommend a strategy.

    ``n`` prompts of up to ``tokens`` tokens are made of some documents each, in places that change, as where text is
    retrieved; longer documents are cut. They are asked ``questions`` in turn (None: one of ours). ``strategies``: those
    to try (None: ``prefix``, and the best chunk strategy by nbkv's own tables at three budgets). ``model`` is what
    ``nbkv.load`` takes, with its ``options``, or an open session. Nothing is kept in its store. It takes some minutes
    on a CPU; stopped, it returns what it has. Raises ``BadOption``, ``BadPrompt``, ``LoadError``, ``UnknownName``,
    ``UnsupportedModel``.
    """
    if not is_whole(n, 1) or not is_whole(tokens, 1):
        message = f"n={n!r}, tokens={tokens!r} are not accepted: whole numbers >= 1"
        raise BadOption(message)
    if not (is_number(max_kl) and 0 <= max_kl < float("inf")):
        message = f"max_kl={max_kl!r} is not accepted: max_kl is a number of nats >= 0"
        raise BadOption(message)
    if isinstance(model, Session) and options:
        message = f"{', '.join(options)} belong to loading; this session is open already (leave them out)"
        raise BadOption(message)
    texts = read_documents(documents)
    items = made_prompts(texts, questions, n)
    opened = nullcontext(model) if isinstance(model, Session) else load(model, strategy="full", **options)

    def make(ctx: Context) -> _Touring:
        return _Touring(ctx, [_cut(item, tokens, ctx) for item in items], strategies, len(texts), float(max_kl))

    with opened as session:
        found: Tour = session.carry_out(make, _Touring.tour)
    return found


class _Touring:
    """A tour under way."""

    work = "tour"

    def __init__(
        self,
        ctx: Context,
        cut: Sequence[tuple[Item, bool]],
        strategies: str | Sequence[str | Strategy] | None,
        documents: int,
        max_kl: float,
    ) -> None:
        self._ctx, self._documents, self._max_kl = ctx, documents, max_kl
        self._sink = settled_sink(ctx, "auto")
        self._prompts = build([item for item, _ in cut], self._sink, ctx)
        self._was_cut = any(was for _, was in cut)
        self._asked_ours = strategies is None
        self._tried = _usual(ctx) if strategies is None else [chosen_strategy(one, ctx) for one in split(strategies)]
        self._steps = {one.spec: Step(one.spec) for one in self._tried if one.spec != "full"}
        self._full = Step("full")
        self._encoded: list[float] = []
        self._bytes: list[float] = []
        self.total = len(self._prompts) + 1

    def steps(self) -> Generator[str]:
        yield "warm-up"
        first_requests(self._prompts[0], [parse("full")], self._sink, self._ctx)  # the first pass of all takes longer
        for number, prompt in enumerate(self._prompts, start=1):
            yield f"prompt {number} of {len(self._prompts)}, {plural(len(prompt.ids), 'token')}"
            met = first_requests(prompt, self._tried, self._sink, self._ctx)
            self._encoded.append(met.encode_s)
            self._bytes.append(met.nbytes)
            for spec, row in met.rows.items():
                step = self._full if spec == "full" else self._steps[spec]
                step.add(row["kl"], row["compute_share"], row["ttft_s"])

    def found(self) -> dict[str, Any]:
        return self.tour(f"{len(self._full.kls)} of {plural(len(self._prompts), 'prompt')} run").to_dict()

    def tour(self, stopped: str = "") -> Tour:
        rows, n = self._rows(), len(self._full.kls)
        best = max(
            (row for row in rows if not row["above"] and row["speedup"] >= FASTER),
            key=lambda row: row["speedup"],
            default=None,
        )
        encode_s, nbytes = (statistics.fmean(values or [0.0]) for values in (self._encoded, self._bytes))
        tokens = max(len(prompt.ids) for prompt in self._prompts)
        return Tour(
            model=self._ctx.adapter.name,
            n=n,
            documents=self._documents,
            tokens=tokens,
            max_kl=self._max_kl,
            rows=tuple(rows),
            recommended="" if not n else "full" if best is None else best["strategy"],
            why=show.tour_reason(best, encode_s, nbytes, n),
            sample=self._sample(best, n),
            encode_s=encode_s,
            encoded_bytes=nbytes,
            notes=tuple(self._notes()),
            stopped=stopped,
        )

    def _rows(self) -> list[dict[str, Any]]:
        approximate = [one for one in self._tried if not one.exact]
        level = (1 - CONFIDENCE) / max(1, len(approximate))
        exact = {one.spec: one.exact for one in self._tried}
        rows = []
        for spec, step in self._steps.items():
            if not (n := len(step.kls)):
                continue
            above, own = step.above(self._max_kl), statistics.median(step.ttfts)
            full_s = statistics.median(self._full.ttfts)
            rows.append(
                {
                    "strategy": spec,
                    "exact": exact[spec],
                    "ttft_s": own,
                    "full_s": full_s,
                    "speedup": full_s / own,
                    "compute_share": step.share,
                    "kl": statistics.fmean(step.kls),
                    "kl_max": max(step.kls),
                    "above": 0 if exact[spec] else above,  # what an exact one differs by is rounding
                    "at_most": None if exact[spec] else binomial.upper_bound(above, n, level),
                }
            )
        return rows

    def _sample(self, best: dict[str, Any] | None, n: int) -> str:
        if best is None or best["exact"]:
            return f"{plural(n, 'prompt')}: enough to see times, which differ with length and machine"
        ladders = len(sorted_out(self._tried).ladders)
        needed = Guarantee(self._max_kl, _RATE, 1 - CONFIDENCE).needed(ladders)
        return (
            f"{plural(n, 'prompt')} of {plural(self._documents, 'document')}, which they share: with "
            f"{100 * CONFIDENCE:.0f} % confidence that excludes no more than "
            f"{share(best['at_most'])} of such prompts above {self._max_kl:g} nats; "
            f"session.certify on {plural(needed, 'prompt')} or more could promise {100 * _RATE:.0f} %"
        )

    def _notes(self) -> list[str]:
        notes = ["documents were cut so that a prompt has about as many tokens as asked for"] if self._was_cut else []
        if self._documents == 1:
            notes.append("one document that is one paragraph: give several, and chunks can change places")
        return notes


def _usual(ctx: Context) -> list[Strategy]:
    """Return ``prefix`` and the best chunk strategy at three budgets, those that can serve the model."""
    best: Any = registry.get("blend")
    fit = []
    for one in (parse("prefix"), *(best(budget=budget) for budget in BUDGETS)):
        try:
            fit.append(chosen_strategy(one, ctx))
        except (UnsupportedModel, BadOption):  # also options that a model of so few layers does not take
            continue
    if not fit:
        message = f"nothing can be reused with {ctx.adapter.name}: {ctx.adapter.capabilities.why_not('prefix')}"
        raise UnsupportedModel(message)
    return fit


def _cut(item: Item, tokens: int, ctx: Context) -> tuple[Item, bool]:
    """Return ``item`` with documents of at most their share of ``tokens``, and whether any was longer."""
    known = ctx.adapter.capabilities
    room = min(tokens, known.context // 2, known.stable_context // 2) // len(item.chunks)
    chunks = [_beginning(text, room, ctx) for text in item.chunks]
    return replace(item, chunks=chunks), chunks != item.chunks


def _beginning(text: str, tokens: int, ctx: Context) -> str:
    ids = ctx.codec.part(text, first=False)
    if len(ids) <= tokens:
        return text
    kept = "".join(ctx.pieces(ids[: max(1, tokens)]))
    return kept.rpartition(" ")[0] or kept
