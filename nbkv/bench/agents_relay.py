"""``agents.relay``: the first token of the fifth agent of a chain, which reads all that the four before it decoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

import nbkv
from nbkv.bench.agreement import reference
from nbkv.bench.first_token import first_token
from nbkv.bench.measure import BenchRow, TimedCandidate, interleaved
from nbkv.bench.models import Bench, make
from nbkv.strategy import parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbkv.result import Chunk, Result
    from nbkv.session.session import Session

NAME, FULL, AGENTS, NEW, CHECKED = "agents.relay", "full", 5, 32, 4
CONTEXT = 1024  # tokens that the fifth agent reads of the others
# The range that was found on SmolLM2, as shares of the depth: random weights have none of their own.
RANGE = (4 / 30, 26 / 30)
BUDGETS = (0.0, 0.15)


@dataclass(frozen=True, eq=False)
class AgentChain:
    """A chain under way: each agent reads the outputs of all before it, between a few words of its own."""

    session: Session
    bench: Bench
    length: int

    def prompt(self, outputs: Sequence[Result], number: int) -> list[str | Chunk]:
        """Return what agent ``number`` is asked: ``NEW`` tokens of its own, half of them in front."""
        halves = (self.bench.ids(NEW // 2, seed=10 * number + half) for half in (1, 2))
        before, behind = (f" {self.bench.text(ids)}" for ids in halves)
        return [before, *(one.chunk(f"agent{at}") for at, one in enumerate(outputs, 1)), behind]

    def outputs(self, strategy: str) -> list[Result]:
        """Let all agents but the last one answer under ``strategy``, with ``length`` tokens each."""
        done: list[Result] = []
        for number in range(1, AGENTS):
            prompt = self.prompt(done, number)
            done.append(self.session.generate(prompt, strategy=strategy, max_new_tokens=self.length))
        return done

    def ask(self, outputs: Sequence[Result], strategy: str, n: int = 1) -> Result:
        """Return the last agent's answer of ``n`` tokens, of which nothing is kept."""
        return self.session.generate(self.prompt(outputs, AGENTS), strategy=strategy, max_new_tokens=n, keep=False)


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no peer)
    """Measure relay, with and without rectification, against ``full`` at the fifth agent, one row each."""
    cuda = torch.cuda.is_available()
    bench = make(shape or ("s06" if cuda else "s01"), torch.bfloat16 if cuda else torch.float32)
    length = max(NEW, (context or (16_384 if cuda else CONTEXT)) // (AGENTS - 1))
    regime = bench.regime(agents=AGENTS, output=length, new=NEW, rounds=rounds)
    rows = []
    with nbkv.load(bench.model, tokenizer=bench.tokenizer, strategy=FULL) as session:
        chain, layers = AgentChain(session, bench, length), _layers(session.adapter.n_layers)
        specs = [f"relay({budget}, layers={layers})" for budget in BUDGETS]
        outputs = chain.outputs(specs[-1])
        for spec in specs:
            row = BenchRow(name=NAME, regime=regime, against=FULL, strategy=spec)
            rows.append(_measured(row, chain, outputs, rounds))
    return rows


def _layers(n_layers: int) -> tuple[int, int, int]:
    start, stop = (round(share * n_layers) for share in RANGE)
    return start, start + 1, max(start + 2, stop)


def _measured(row: BenchRow, chain: AgentChain, outputs: Sequence[Result], rounds: int) -> BenchRow:
    spec = row.strategy
    result = chain.ask(outputs, spec)
    if why := _wrong(spec, chain, outputs, result):
        return replace(row, refused=why)
    seconds = interleaved([TimedCandidate(one, partial(_first, chain, outputs, one)) for one in (FULL, spec)], rounds)
    full, ours = seconds[FULL], seconds[spec]
    share, computed = f"{result.hit_rate:.1%} of {result.tokens.prompt} tokens reused", result.compute.share
    note = f"full / ours = {full / ours:.2f}; {share}, {computed:.1%} computed"
    return replace(row, baseline=full, ours=ours, ideal=1 / computed, notes=(note,))


def _wrong(spec: str, chain: AgentChain, outputs: Sequence[Result], result: Result) -> str:
    """Return why the figures could not be trusted; "" if they can."""
    wanted = reference(chain.bench.model, result.prompt_ids, CHECKED, split=len(result.prompt_ids) // 2)
    whole = parse(spec).at_full_budget()
    assert whole is not None  # noqa: S101
    if why := wanted.differs(chain.ask(outputs, whole.spec, CHECKED).token_ids):
        return f"at its full budget: {why}"
    known = sum(len(one.token_ids) - 1 for one in outputs)  # of the last token nobody has K/V
    if result.tokens.reused + result.tokens.recomputed < known:
        return f"{result.tokens.fresh} tokens were fresh where {result.tokens.prompt - known} have no K/V"
    return ""


def _first(chain: AgentChain, outputs: Sequence[Result], spec: str, _: object) -> float:
    """Return the seconds to the last agent's first token."""
    prompt = chain.prompt(outputs, AGENTS)
    return first_token(chain.session, prompt, strategy=spec, keep=False).seconds
