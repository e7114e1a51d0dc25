"""``batch.prefix``: 32 prompts that share 1,024 tokens, each with 32 of its own, answered with 32 tokens each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

import nbkv
from nbkv.bench.agreement import reference
from nbkv.bench.measure import BenchRow, TimedCandidate, interleaved
from nbkv.bench.models import Bench, half, make

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nbkv.session.batches.results import BatchResults
    from nbkv.session.session import Session

NAME, PROMPTS, SHARED, OWN, NEW = "batch.prefix", 32, 1024, 32, 32
BATCH, ALONE = "transformers generate, one batch", "transformers generate, one by one"
_CHECKED = 4  # prompts whose answers are held against transformers'
_ROWS = 8  # prompts whose own tokens the floor runs in one pass

Ids = list[int]


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no peer batches)
    """Measure ``session.generate_batch`` on an empty store against ``generate``, in one batch and one by one."""
    shared = context or SHARED
    bench = make(shape or "s06", half() if torch.cuda.is_available() else torch.float32)
    regime = bench.regime(prompts=PROMPTS, shared=shared, own=OWN, new=NEW, rounds=rounds) | {"batch": PROMPTS}
    prefix = bench.ids(shared, seed=1)
    prompts = [prefix + bench.ids(OWN, seed=2 + at) for at in range(PROMPTS)]
    with nbkv.load(bench.model, tokenizer=bench.tokenizer) as session:
        results = _ours(session, bench, prompts)
        if refused := _differs(bench, prompts, results, shared):
            return [BenchRow(name=NAME, regime=regime, against=BATCH, refused=refused)]
        seconds = interleaved(_candidates(session, bench, prompts, shared), rounds)
        notes = _held(session, results, shared)
    ours, floor = seconds["ours"], seconds["floor"]
    return [
        BenchRow(name=NAME, regime=regime, against=against, baseline=seconds[against], ours=ours, floor=floor)
        if against == ALONE
        else BenchRow(
            name=NAME, regime=regime, against=against, baseline=seconds[against], ours=ours, floor=floor, notes=notes
        )
        for against in (BATCH, ALONE)
    ]


def _ours(session: Session, bench: Bench, prompts: Sequence[Ids]) -> BatchResults:
    texts = [bench.text(ids) for ids in prompts]
    return session.generate_batch(texts, max_new_tokens=NEW, progress=False)


def _differs(bench: Bench, prompts: Sequence[Ids], results: BatchResults, shared: int) -> str:
    """Return why an answer is not transformers', or that the prefix was not computed once; "" where all is well."""
    if results.figures.prefix_rows != shared:
        return f"{results.figures.prefix_rows} tokens of prefixes were computed, {shared} are shared"
    for at in range(0, PROMPTS, max(1, PROMPTS // _CHECKED)):
        if why := reference(bench.model, prompts[at], NEW, split=shared).differs(results[at].token_ids):
            return f"prompt {at}: {why}"
    return ""


def _held(session: Session, results: BatchResults, shared: int) -> tuple[str, ...]:
    token, figures = session.adapter.token_bytes / 2**20, results.figures
    peak, once = figures.peak_bytes / 2**20, figures.shared_bytes / 2**20
    repeated = PROMPTS * (shared + OWN + NEW) * token
    return (
        f"K/V at most {peak:.0f} MiB, of it the shared prefix {once:.0f}; a batch that repeats it holds {repeated:.0f}",
        f"{figures.passes} passes over {figures.rows} rows",
    )


def _candidates(session: Session, bench: Bench, prompts: Sequence[Ids], shared: int) -> list[TimedCandidate]:
    given = torch.tensor(prompts, device=bench.model.device)

    def empty() -> None:
        session.use_store("memory")

    def generate(ids: torch.Tensor) -> None:
        with torch.inference_mode():
            bench.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)

    def alone(_: object) -> None:
        for ids in given.split(1):
            generate(ids)

    return [
        TimedCandidate("ours", lambda _: _ours(session, bench, prompts), empty),
        TimedCandidate(BATCH, lambda _: generate(given)),
        TimedCandidate(ALONE, alone),
        TimedCandidate("floor", lambda _: _bare(session, bench, given, shared)),
    ]


def _bare(session: Session, bench: Bench, given: torch.Tensor, shared: int) -> None:
    """Run bare forwards over as many rows: the prefix once, the prompts' own tokens behind it, then one row each.

    They are the rows of one sequence, so that the prefix is read once for all of them, as the ideal has it.
    """
    ready = session.adapter.growing(shared + _ROWS * OWN + PROMPTS)

    def forward(rows: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = bench.model(rows[None], past_key_values=ready, logits_to_keep=1).logits
        return logits

    with torch.inference_mode():
        forward(given[0, :shared])
        for rows in given[:, shared:].split(_ROWS):
            forward(rows.flatten())
            ready.crop(shared - ready.get_seq_length())
        answers = given[:, -1]
        for _ in range(NEW - 1):
            logits = bench.model(answers[None], past_key_values=ready).logits[0]
            ready.crop(shared - ready.get_seq_length())
            answers = logits.argmax(-1)
