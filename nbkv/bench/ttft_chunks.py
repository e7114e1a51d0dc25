"""``ttft.chunks``: the first token of a prompt made of chunks that were each encoded alone, and 32 new tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

import nbkv
from nbkv.bench.agreement import Reference, decided
from nbkv.bench.first_token import first_token
from nbkv.bench.measure import CONTEXT, BenchRow, TimedCandidate, interleaved
from nbkv.bench.models import Bench, make
from nbkv.bench.replay import Pass, flops, ready, recording, run_again, token_layers
from nbkv.errors import UnsupportedModel
from nbkv.strategy import Strategy, parse

if TYPE_CHECKING:
    from nbkv.result import Chunk, Result
    from nbkv.session.session import Session

NAME, FULL, NEW, CHECKED = "ttft.chunks", "full", 32, 4
STRATEGIES = ("cacheblend(0.15)", "prophet(0.20)", "epic(16)", "blend(0.20)")


@dataclass(frozen=True, eq=False)
class ChunkWorkload:
    """One prompt to measure: chunks in the store, a question behind them, all its ids, and the right answer."""

    session: Session
    chunks: list[Chunk]
    question: str
    ids: list[int]
    wanted: Reference

    @property
    def prompt(self) -> list[str | Chunk | Result]:
        """Return the prompt's parts."""
        return [*self.chunks, self.question]

    def ask(self, strategy: str | Strategy, n: int = CHECKED) -> Result:
        """Answer with ``n`` tokens."""
        return self.session.generate(self.prompt, strategy=strategy, max_new_tokens=n)

    def first(self, strategy: str) -> tuple[float, int]:
        """Return the seconds to the first token, and that token."""
        first = first_token(self.session, self.prompt, strategy=strategy)
        return first.seconds, first.result.token_ids[0]


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no peer)
    """Measure chunk strategies against ``full`` and against the forwards they consist of, one row each."""
    cuda = torch.cuda.is_available()
    n_chunks, context = (16, context or 16_384) if cuda else (8, context or CONTEXT)
    length = max(1, context // n_chunks)
    bench = make(shape or "s06", torch.bfloat16 if cuda else torch.float32)
    regime = bench.regime(chunks=n_chunks, chunk=length, new=NEW, rounds=rounds)
    with nbkv.load(bench.model, tokenizer=bench.tokenizer, strategy="full") as session:
        work = _prepare(bench, session, n_chunks, length)
        rows, passes = [], {}
        for spec in STRATEGIES:
            row = BenchRow(name=NAME, regime=regime, against=FULL, strategy=spec)
            try:
                passes[spec], refused = _checked(work, spec)
                rows.append(replace(row, refused=refused))
            except UnsupportedModel as reason:
                rows.append(replace(row, missing=str(reason)))
        sound = {row.strategy: passes[row.strategy] for row in rows if not (row.refused or row.missing)}
        given: dict[str, set[int]] = {}
        seconds = interleaved(_candidates(work, sound, given), rounds) if sound else {}
        full = flops(session.adapter, [Pass.of_all(len(work.ids), session.adapter)])
        return [
            _measured(row, seconds, given, full / flops(session.adapter, sound[row.strategy]))
            if row.strategy in sound
            else row
            for row in rows
        ]


def _prepare(bench: Bench, session: Session, n_chunks: int, length: int) -> ChunkWorkload:
    """Encode the chunks, and find a question whose first answered token plain transformers decides clearly."""
    pieces = [bench.ids(length, seed=1 + number) for number in range(n_chunks)]
    base = [token for piece in pieces for token in piece]
    ids, wanted = decided(bench, base, NEW, CHECKED, seed=100)  # no chunk's own
    chunks = [session.chunk(_part(bench, piece), name=f"chunk{number}") for number, piece in enumerate(pieces)]
    return ChunkWorkload(session, chunks, _part(bench, ids[len(base) :]), ids, wanted)


def _part(bench: Bench, ids: list[int]) -> str:
    return f" {bench.text(ids)}"  # parts are joined as they are: without the space two words would become one


def _checked(work: ChunkWorkload, spec: str) -> tuple[list[Pass], str]:
    """Return the passes that ``spec`` makes on this prompt, and why its figures could not be trusted ("": they can)."""
    whole = parse(spec).at_full_budget()
    if whole is None:
        return [], "it has no full budget at which its output could be checked"
    if why := work.wanted.differs(work.ask(whole).token_ids):
        return [], f"at its full budget: {why}"
    with recording(work.session.adapter) as passes:
        result = work.ask(spec, 1)
    tokens, n_layers = result.tokens, work.session.adapter.n_layers
    if list(result.prompt_ids) != work.ids or tokens.reused + tokens.recomputed + tokens.fresh != len(work.ids):
        return passes, "reused, recomputed and fresh tokens are not the prompt's"
    if tokens.fresh != NEW - 1 and tokens.fresh != NEW:
        return passes, f"{tokens.fresh} tokens were fresh where {NEW} have no KV"
    counted = round(result.compute.share * len(work.ids) * n_layers)
    if counted != token_layers(passes):
        return passes, f"it counts {counted} token-layers where its passes have {token_layers(passes)}"
    return passes, ""


def _candidates(work: ChunkWorkload, sound: dict[str, list[Pass]], given: dict[str, set[int]]) -> list[TimedCandidate]:
    adapter = work.session.adapter
    ids, cache = adapter.tensor(work.ids), ready(adapter, work.ids)

    def first(spec: str, _: object) -> float:
        seconds, token = work.first(spec)
        given.setdefault(spec, set()).add(token)
        return seconds

    def again(passes: list[Pass], _: object) -> int:
        return int(run_again(adapter, ids, cache, passes).argmax())

    candidates = [TimedCandidate(FULL, partial(first, FULL))]
    for spec, passes in sound.items():
        candidates += [TimedCandidate(spec, partial(first, spec)), TimedCandidate(_floor(spec), partial(again, passes))]
    return candidates


def _measured(row: BenchRow, seconds: dict[str, float], given: dict[str, set[int]], ideal: float) -> BenchRow:
    for spec in (FULL, row.strategy):
        if len(given[spec]) != 1:
            return replace(row, refused=f"{spec} gave {len(given[spec])} different tokens in its rounds")
    ours, full = seconds[row.strategy], seconds[FULL]
    note = f"full / ours = {full / ours:.2f}; by FLOPs alone it would be {ideal:.2f}"
    return replace(row, baseline=full, ours=ours, floor=seconds[_floor(row.strategy)], ideal=ideal, notes=(note,))


def _floor(spec: str) -> str:
    return f"floor of {spec}"
