"""``overhead``: what a whole short request costs beyond the forward calls it makes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from transformers import DynamicCache

import nbkv
from nbkv.bench.measure import BenchRow, TimedCandidate, interleaved
from nbkv.bench.models import TINY, Bench, make

NAME, PROMPT, NEW = "overhead", 32, 16
AT_ONCE = 5  # requests that are timed together: one takes so little that whatever else runs decides
BY_HAND = "the same forward calls by hand"


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (a request of fixed size)
    """Measure a request under ``full`` against its forward calls alone; the note is the difference."""
    bench = make(shape or TINY, torch.float32)
    regime = bench.regime(prompt=PROMPT, new=NEW, requests=AT_ONCE, rounds=rounds)
    ids = bench.ids(PROMPT, seed=1)
    text = bench.text(ids)
    with nbkv.load(bench.model, tokenizer=bench.tokenizer, strategy="full") as session:
        tokens = list(session.generate(text, max_new_tokens=NEW).token_ids)
        if tokens != _by_hand(bench, ids):
            return [BenchRow(name=NAME, regime=regime, against=BY_HAND, refused="other tokens than by hand")]
        candidates = [
            TimedCandidate("ours", lambda _: _seconds(lambda: session.generate(text, max_new_tokens=NEW))),
            TimedCandidate(BY_HAND, lambda _: _seconds(lambda: _by_hand(bench, ids))),
        ]
        seconds = interleaved(candidates, rounds)
    ours, hand = seconds["ours"], seconds[BY_HAND]
    more = f"{(ours - hand) * 1000:.1f} ms more a request"
    return [BenchRow(name=NAME, regime=regime, against=BY_HAND, baseline=hand, ours=ours, floor=hand, notes=(more,))]


def _seconds(request: Callable[[], object]) -> float:
    """Return what one of some requests takes."""
    start = time.perf_counter()
    for _ in range(AT_ONCE):
        request()
    return (time.perf_counter() - start) / AT_ONCE


def _by_hand(bench: Bench, ids: list[int]) -> list[int]:
    model, tokens, given = bench.model, [], ids
    cache = DynamicCache(config=model.config)
    with torch.inference_mode():
        for _ in range(NEW):
            logits = model(torch.tensor([given], device=model.device), past_key_values=cache, logits_to_keep=1).logits
            tokens.append(int(logits[0, -1].argmax()))
            given = tokens[-1:]
    return tokens
