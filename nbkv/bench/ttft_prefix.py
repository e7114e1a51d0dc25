"""``ttft.prefix``: the first token of a prompt whose first 2,048 tokens are cached and whose last 32 are new."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

import nbkv
from nbkv.bench.agreement import DRAWS, Reference, decided
from nbkv.bench.first_token import first_token
from nbkv.bench.measure import CONTEXT, WARM_UP, BenchRow, TimedCandidate, interleaved
from nbkv.bench.models import Bench, half, make
from nbkv.bench.peer import PEER, Missing, kvboost
from nbkv.kv import Space
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.growing import GrowingCache
from nbkv.stores.memory import MemoryStore

if TYPE_CHECKING:
    from nbkv.session.session import Session

NAME, NEW, CHECKED = "ttft.prefix", 32, 8
LONG_BRANCHES = 6
FULL, COPY = "transformers full prefill", "transformers + deepcopy of the prefix's cache"

Ask = Callable[[str, int], dict[str, Any]]


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:
    """Measure nbkv's ``prefix`` against a full prefill, a copied prefix cache, and KVBoost if ``peers``."""
    context = context or CONTEXT
    bench = make(shape or "s06", half())
    regime = bench.regime(cached=context, new=NEW, rounds=rounds)
    base = bench.ids(context, seed=1)
    with nbkv.load(bench.model, tokenizer=bench.tokenizer, strategy="prefix") as session, ExitStack() as stack:
        session.generate(bench.text(base), max_new_tokens=1)
        ids, wanted = decided(bench, base, NEW, CHECKED)
        refused = _differs(session, bench.text(ids), wanted, len(base))
        if refused:
            return [BenchRow(name=NAME, regime=regime, against=FULL, refused=refused)]
        candidates = _candidates(bench, session, base)
        peer = BenchRow(name=NAME, regime=regime, against=PEER)
        if peers:
            try:
                ask = stack.enter_context(kvboost(bench.shape, regime["dtype"], regime["threads"]))
                ask(bench.text(base), 1)
                peer = _check_peer(ask(bench.text(ids), CHECKED), wanted, peer)
                candidates.append(TimedCandidate(PEER, lambda text: ask(text, 1)["ttft_s"], candidates[0].prepare))
            except Missing as reason:
                peer = replace(peer, missing=str(reason))
        seconds = interleaved(candidates, rounds)
        held = _held(session, bench, context, branches=rounds + WARM_UP)
        held = (*held, _branches_held(session.adapter, context, context + NEW))
    rows = [BenchRow(name=NAME, regime=regime, against=against) for against in (FULL, COPY)]
    rows = [replace(row, baseline=seconds[row.against], notes=held if row.against == COPY else ()) for row in rows]
    if peers:
        rows.append(replace(peer, baseline=seconds.get(PEER)))
    ours, floor = seconds["ours"], seconds["floor"]
    return [row if row.missing else replace(row, ours=ours, floor=floor) for row in rows]


def _differs(session: Session, text: str, wanted: Reference, cached: int) -> str:
    result = session.generate(text, max_new_tokens=CHECKED)
    if result.tokens.reused != cached:
        return f"{result.tokens.reused} of {cached} cached tokens were reused"
    return wanted.differs(result.token_ids)


def _held(session: Session, bench: Bench, context: int, *, branches: int) -> tuple[str, ...]:
    """Return what the store holds after ``branches`` continuations, beside what as many copies of the prefix would."""
    kv = session.adapter.growing()
    with torch.no_grad():
        bench.model(torch.tensor([bench.ids(1, seed=0)], device=bench.model.device), past_key_values=kv)
    token = kv.read(0, 1).nbytes
    mine, theirs = int(session.store.tiers["bytes"].sum()), branches * (context + NEW) * token
    return (f"{branches} branches: {mine / 2**20:.0f} MiB in the store, {theirs / 2**20:.0f} MiB as copies",)


def _check_peer(answer: dict[str, Any], wanted: Reference, row: BenchRow) -> BenchRow:
    """Return ``row`` with what is to be known about the peer's ``answer``.

    Its first token must be the reference's. That its later tokens differ does not touch the time to the first one,
    but is said.
    """
    if why := replace(wanted, gaps=wanted.gaps[:1]).differs(answer["tokens"]):
        seconds = f"it took {answer['ttft_s'] * 1000:.1f} ms and reused {answer['reused']:.1%}"
        message = f"its first token with a cached prefix is wrong: {why} ({seconds})"
        raise Missing(message)
    parts = f"{answer['own_ttft_s'] * 1000:.1f} of {answer['ttft_s'] * 1000:.1f} ms"
    notes = [f"in a process of its own; reused {answer['reused']:.1%}; in the check, its own ttft_ms counts {parts}"]
    if why := wanted.differs(answer["tokens"]):
        notes.append(f"its answer differs after the first token: {why}")
    return replace(row, notes=tuple(notes))


def _candidates(bench: Bench, session: Session, base: list[int]) -> list[TimedCandidate]:
    model, device = bench.model, bench.model.device
    prefix = DynamicCache(config=model.config)
    ready = session.adapter.growing(len(base) + 2 * NEW)
    with torch.no_grad():
        for cache in (prefix, ready):
            model(torch.tensor([base], device=device), past_key_values=cache, logits_to_keep=1)
    # Every call gets new tokens of its own, so that nothing but the prefix is ever known.
    seeds = itertools.count(2 + DRAWS)

    def fresh() -> list[int]:
        return bench.ids(NEW, seed=next(seeds))

    def forward(ids: list[int], cache: object) -> int:
        with torch.inference_mode():
            given = torch.tensor([ids], device=device)
            return int(model(given, past_key_values=cache, logits_to_keep=1).logits[0, -1].argmax())

    def ours(text: str) -> float:
        return first_token(session, text).seconds

    def floor(ids: list[int]) -> None:
        ready.crop(min(0, len(base) - ready.get_seq_length()))
        forward(ids, ready)

    return [
        TimedCandidate("ours", ours, lambda: bench.text(base + fresh())),
        TimedCandidate(FULL, lambda ids: forward(base + ids, DynamicCache(config=model.config)), fresh),
        TimedCandidate(COPY, lambda ids: forward(ids, copy.deepcopy(prefix)), fresh),
        TimedCandidate("floor", floor, fresh),
    ]


def _branches_held(adapter: ModelAdapter, prefix: int, tail: int) -> str:
    """Return a line about ``LONG_BRANCHES`` branches of ``tail`` tokens each over one ``prefix`` of so many tokens.

    Each is longer than what they share: the case of two-part attention. Their K/V are laid out, not computed: bytes
    are asked here, not seconds.
    """
    store, space, copied = MemoryStore(limit=2**60), Space(adapter.name, str(adapter.dtype)), 0
    branch_at = adapter.branch_at if adapter.capabilities.branches else None
    for branch in range(LONG_BRANCHES):
        ids = (*range(prefix), *(-1 - branch for _ in range(tail)))
        lease = store.take(space, ids, len(ids), adapter.growing, branch_at=branch_at)
        _allocate(adapter, lease.buffer, lease.matched, len(ids))  # type: ignore[arg-type]  # the adapter's own
        copied += lease.copied
        store.give(lease, ids)
    token = int(store.ls()["bytes"].iloc[0]) // tail
    mine, theirs = store.nbytes / 2**20, LONG_BRANCHES * (prefix + tail) * token / 2**20
    what = f"{LONG_BRANCHES} branches of {tail} tokens over {prefix}"
    return f"{what}: {mine:.0f} MiB in the store, {theirs:.0f} MiB as copies; {copied} tokens copied"


def _allocate(adapter: ModelAdapter, cache: GrowingCache, start: int, stop: int) -> None:
    """Make room for ``[start, stop)`` in every layer, and leave it as it is."""
    found = adapter.capabilities
    cache.extend(adapter.n_layers)
    for layer, (heads, *widths) in enumerate(zip(found.kv_heads, found.key_dim, found.value_dim, strict=True)):
        sides = (torch.empty(1, dtype=adapter.dtype, device=adapter.device) for _ in widths)
        shaped = [side.expand(heads, stop - start, width) for side, width in zip(sides, widths, strict=True)]
        cache.room(layer, start, *shaped)
