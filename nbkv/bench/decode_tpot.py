"""``decode.tpot``: seconds per generated token after a long prompt, from the first token to the last."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache
from transformers.generation.streamers import BaseStreamer

import nbkv
from nbkv.bench.agreement import reference
from nbkv.bench.measure import CONTEXT, BenchRow, TimedCandidate, interleaved
from nbkv.bench.models import Bench, make

if TYPE_CHECKING:
    from nbkv.session.session import Session

NAME, NEW = "decode.tpot", 32
GENERATE = "transformers generate, DynamicCache"


class Clock(BaseStreamer):
    """Notes when each token comes; the first call is the prompt."""

    def __init__(self) -> None:
        """Start without a note."""
        self.times: list[float] = []

    def put(self, value: torch.Tensor) -> None:  # noqa: ARG002
        """Note the time."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Do nothing at the end."""


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no peer decodes)
    """Measure nbkv's decode loop against ``generate`` on the same ready prompt."""
    context = context or CONTEXT
    bench = make(shape or "s06", torch.float32)
    regime = bench.regime(context=context, new=NEW, rounds=rounds)
    ids = bench.ids(context, seed=1)
    with nbkv.load(bench.model, tokenizer=bench.tokenizer, strategy="prefix") as session:
        wanted = reference(bench.model, ids, NEW, split=context - 1)
        tokens = session.generate(bench.text(ids), max_new_tokens=NEW).token_ids
        refused = wanted.differs(tokens) or wanted.differs(_generate(bench, ids)[0])
        if refused:
            return [BenchRow(name=NAME, regime=regime, against=GENERATE, refused=refused)]
        seconds = interleaved(_candidates(bench, session, ids), rounds)
    ours, theirs, floor = seconds["ours"], seconds[GENERATE], seconds["floor"]
    return [BenchRow(name=NAME, regime=regime, against=GENERATE, baseline=theirs, ours=ours, floor=floor)]


def _candidates(bench: Bench, session: Session, ids: list[int]) -> list[TimedCandidate]:
    model, text, known = bench.model, bench.text(ids), ids[:-1]
    prefix, ready = DynamicCache(config=model.config), session.adapter.growing(len(ids) + NEW)
    with torch.no_grad():
        for cache in (prefix, ready):
            model(torch.tensor([known], device=model.device), past_key_values=cache, logits_to_keep=1)

    def ours(_: object) -> float:
        times = [time.perf_counter() for _ in session.stream(text, max_new_tokens=NEW)]
        assert len(times) == NEW  # noqa: S101  (with this tokenizer every token is a piece of text)
        return _per_token(times)

    def theirs(cache: DynamicCache) -> float:
        return _generate(bench, ids, cache)[1]

    def floor(_: object) -> float:
        ready.crop(min(0, len(known) - ready.get_seq_length()))
        token, times = ids[-1], []
        with torch.inference_mode():
            for _ in range(NEW):
                given = torch.tensor([[token]], device=model.device)
                token = int(model(given, past_key_values=ready).logits[0, -1].argmax())
                times.append(time.perf_counter())
        return _per_token(times)

    return [
        TimedCandidate("ours", ours),
        TimedCandidate(GENERATE, theirs, lambda: copy.deepcopy(prefix)),
        TimedCandidate("floor", floor),
    ]


def _generate(bench: Bench, ids: list[int], cache: DynamicCache | None = None) -> tuple[list[int], float]:
    clock = Clock()
    given = torch.tensor([ids], device=bench.model.device)
    with torch.inference_mode():
        made = bench.model.generate(
            given,
            attention_mask=torch.ones_like(given),
            past_key_values=cache if cache is not None else DynamicCache(config=bench.model.config),
            max_new_tokens=NEW,
            do_sample=False,
            streamer=clock,
        )
    return made[0, len(ids) :].tolist(), _per_token(clock.times[1:])


def _per_token(times: list[float]) -> float:
    return (times[-1] - times[0]) / (len(times) - 1)
