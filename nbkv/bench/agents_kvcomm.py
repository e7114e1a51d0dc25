"""``agents.kvcomm``: five agents that read each other's outputs; TTFT of a turn whose templates came before.

Of the first two turns anchors are left; what is timed is a third one, with texts that were in neither.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

import nbkv
from nbkv.bench.agreement import reference
from nbkv.bench.first_token import first_token
from nbkv.bench.measure import BenchRow, TimedCandidate, interleaved
from nbkv.bench.models import Bench, half, make
from nbkv.bench.replay import ready

if TYPE_CHECKING:
    from nbkv.result import Chunk
    from nbkv.session.session import Session

NAME, FULL, FLOOR, AGENTS, CHECKED, LEAST = "agents.kvcomm", "full", "floor", 5, 4, 0.7
# The gate is open: random texts resemble each other as little as random weights know them.
STRATEGY = "kvcomm(gamma=1.0, max_kl=None, min_explained=None)"
WHOLE = "kvcomm(gamma=0.0, max_kl=None)"
_SHARES = {"prefix": 4, "input": 2}  # of a prompt a quarter is its agent's own text, half is given; the rest is outputs

Part = Any  # text, or a chunk


@dataclass(frozen=True, eq=False)
class AgentTurns:
    """Five agents on one session, whose prompts have about ``context`` tokens."""

    bench: Bench
    session: Session
    context: int

    def prompts(self, turn: int) -> list[list[Part]]:
        """Return the prompts of all agents in turn ``turn``: their own text, what is given, what the others said."""
        given = self._chunk("input", self.context // _SHARES["input"], seed=1000 + turn)
        outputs = self.context - self.context // _SHARES["input"] - self.context // _SHARES["prefix"]
        said = [
            self._chunk(f"agent{number}", outputs // (AGENTS - 1), seed=2000 + 10 * turn + number)
            for number in range(AGENTS)
        ]
        own = self.context // _SHARES["prefix"] // AGENTS  # between the slots as well as in front of them
        prompts = []
        for number in range(AGENTS):
            texts = [self._text(own, seed=3000 + 10 * number + at) for at in range(AGENTS)]
            slots = [given, *(said[other] for other in range(AGENTS) if other != number)]
            between = [part for pair in zip(texts, slots, strict=True) for part in pair]
            prompts.append([*between, self._text(max(own, 1), seed=4000 + number)])
        return prompts

    def _chunk(self, name: str, tokens: int, seed: int) -> Chunk:
        return self.session.chunk(self._text(tokens, seed), name=name)

    def _text(self, tokens: int, seed: int) -> str:
        return f" {self.bench.text(self.bench.ids(max(1, tokens), seed=seed))}"

    def first_tokens(self, strategy: str, prompts: list[list[Part]], _: object) -> float:
        """Return the mean seconds to the first token of an agent's answer."""
        return statistics.fmean(first_token(self.session, prompt, strategy=strategy).seconds for prompt in prompts)


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no peer)
    """Measure ``kvcomm`` against ``full``, and against bare forwards of the rows that it runs."""
    cuda = torch.cuda.is_available()
    bench = make(shape or "s06", half() if cuda else torch.float32)
    context = context or (2048 if cuda else 256)
    regime = bench.regime(agents=AGENTS, context=context, rounds=rounds)
    row = BenchRow(name=NAME, regime=regime, against=FULL, strategy=STRATEGY)
    with nbkv.load(bench.model, tokenizer=bench.tokenizer, strategy=FULL) as session:
        turns = AgentTurns(bench, session, context)
        prompts = turns.prompts(2)
        if refused := _differs(turns, prompts[-1]):
            return [replace(row, refused=refused)]
        for turn in range(2):
            for prompt in turns.prompts(turn):
                session.generate(prompt, strategy=STRATEGY, max_new_tokens=1)
        prompts = turns.prompts(2)  # their chunks' names stood for other texts meanwhile
        results = [session.generate(prompt, strategy=STRATEGY, max_new_tokens=1) for prompt in prompts]
        reuse = sum(result.tokens.reused for result in results) / sum(result.tokens.prompt for result in results)
        if reuse < LEAST:
            return [replace(row, refused=f"{reuse:.0%} of the tokens are reused, where {LEAST:.0%} are to be")]
        fresh = [result.provenance.size - result.tokens.reused for result in results]
        caches = [(ready(session.adapter, result.prompt_ids), result.prompt_ids) for result in results]
        candidates = [
            TimedCandidate(FULL, partial(turns.first_tokens, FULL, prompts)),
            TimedCandidate(STRATEGY, partial(turns.first_tokens, STRATEGY, prompts)),
            TimedCandidate(FLOOR, partial(_bare, session, caches, fresh)),
        ]
        seconds = interleaved(candidates, rounds)
        pool = session.stats.anchors
    full, ours = seconds[FULL], seconds[STRATEGY]
    notes = (
        f"full / ours = {full / ours:.2f} at {reuse:.0%} reuse, {len(results[0].prompt_ids)} tokens a prompt",
        f"{pool['count']} anchors of {pool['bytes'] / 2**20:.0f} MiB",
    )
    return [replace(row, baseline=full, ours=ours, floor=seconds[FLOOR], notes=notes)]


def _differs(turns: AgentTurns, prompt: list[Part]) -> str:
    """Return why the answer of a gate that refuses everything is not plain transformers'; "" where it is."""
    result = turns.session.generate(prompt, strategy=WHOLE, max_new_tokens=CHECKED)
    wanted = reference(turns.bench.model, result.prompt_ids, CHECKED, split=len(result.prompt_ids) - 1)
    why = wanted.differs(result.token_ids)
    turns.session.store.clear()
    return f"with a gate that refuses everything: {why}" if why else ""


def _bare(session: Session, caches: list[tuple[Any, tuple[int, ...]]], fresh: list[int], _: object) -> float:
    """Return the mean seconds of a forward of as many last rows as are run of a prompt, on a ready cache."""
    start = time.perf_counter()
    for (cache, ids), rows in zip(caches, fresh, strict=True):
        cache.truncate(len(ids) - rows)
        session.adapter.forward(session.adapter.tensor(ids[-rows:]), cache, start=len(ids) - rows)
    return (time.perf_counter() - start) / len(caches)
