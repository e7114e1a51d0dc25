"""``search.ets``: a tree search of width 16 and depth 6, against the same search whose branches share nothing.

The baseline runs the very same loop, but every branch holds all of its own K/V, as the rows of a batch do: forking
copies them, and attention is one padded batch over all rows. Its searches must be the same to the token. Rewards are
drawn, and so is which of a few meanings a step has: random weights write text in which no two steps mean the same.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import nbkv
from nbkv.bench.measure import BenchRow, TimedCandidate, interleaved
from nbkv.bench.models import Bench, make
from nbkv.context import Context
from nbkv.families.search.rewards import Reward
from nbkv.inference.search.branches import BranchKV, SharedBranches
from nbkv.inference.search.tree_loop import TreeLoop
from nbkv.kv import KV, join
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.packed import Bundle, Feed
from nbkv.models.work import Work
from nbkv.prompts.prompt import PromptLike
from nbkv.session.search.job import SearchJob
from nbkv.session.search.results import SearchResult
from nbkv.session.session import Session
from nbkv.strategy import parse

NAME, WIDTH, DEPTH, STEP, PROMPT, MEANINGS = "search.ets", 16, 6, 16, 1024, 4
ALONE, SAME = "rebase without sharing", "the same search without sharing"


class RepeatedBranches(BranchKV):
    """Branches that each hold all of their own K/V, the prompt's too, in one slot of a batch."""

    def __init__(self, pieces: Sequence[KV], adapter: ModelAdapter) -> None:
        """Begin without branches behind the K/V ``pieces`` of the prompt."""
        self._adapter, self._pieces = adapter, tuple(pieces)
        self._bundle = Bundle((), adapter.n_layers)
        self._slots: list[int] = []  # of each branch

    @property
    def held_tokens(self) -> int:
        """Return the tokens whose K/V are held: every branch's own."""
        return sum(self._bundle.lengths)

    @property
    def alone_tokens(self) -> int:
        """Return the same."""
        return self.held_tokens

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated; the prompt's as they are stored are not among it."""
        return self._bundle.nbytes

    def begin(self) -> int:
        """Begin a branch with a copy of the prompt; return its number."""
        return self._filled(join(self._pieces)) if self._pieces else self._filled(None)

    def fork(self, number: int) -> int:
        """Begin a branch with a copy of all that ``number`` has; return its number."""
        slot = self._slots[number]
        length, at = self._bundle.lengths[slot], torch.tensor([slot], device=self._adapter.device)
        if not length:
            return self._filled(None)
        own = [self._bundle.own(layer, at, length) for layer in range(self._adapter.n_layers)]
        return self._filled(KV(tuple(keys[0] for keys, _ in own), tuple(values[0] for _, values in own)))

    def keep(self, numbers: Sequence[int]) -> None:
        """End all branches but ``numbers``, which are numbered anew in that order."""
        kept = [self._slots[number] for number in numbers]
        for slot in sorted(set(self._slots) - set(kept), reverse=True):
            last = self._bundle.remove(slot)
            kept = [slot if own == last else own for own in kept]
        self._slots = kept

    def run(self, numbers: Sequence[int], tokens: Sequence[int], work: Work) -> torch.Tensor:
        """Run the next token of each of ``numbers``; return the logits ``[n, V]`` after them."""
        order = sorted(range(len(numbers)), key=lambda at: self._slots[numbers[at]])
        feeds = [Feed(self._bundle, self._slots[numbers[at]], [tokens[at]]) for at in order]
        logits = self._adapter.packed(feeds, work)
        back = torch.tensor(order, device=logits.device).argsort()
        return logits.index_select(0, back)

    def _filled(self, kv: KV | None) -> int:
        bundle, device = self._bundle, self._adapter.device
        slot = bundle.add()
        if kv is not None:
            bundle.reserve(max(kv.length + STEP, *bundle.lengths))
            slots, at = torch.full((kv.length,), slot, device=device), torch.arange(kv.length, device=device)
            for layer, sides in enumerate(zip(kv.keys, kv.values, strict=True)):
                bundle.written(layer, slots, at, (sides[0].transpose(0, 1), sides[1].transpose(0, 1)))
            bundle.lengths[slot] = kv.length
        self._slots.append(slot)
        return len(self._slots) - 1


Place = Callable[[Sequence[KV], ModelAdapter], BranchKV]


def searched(
    session: Session,
    prompt: PromptLike,
    reward: Reward,
    *,
    branches_kv: Place = SharedBranches,
    **options: Any,  # noqa: ANN401  (those of ``session.search``)
) -> SearchResult:
    """Return what ``session.search`` finds, its branches' K/V held as ``branches_kv`` holds them."""

    def begin(ctx: Context) -> TreeLoop:
        loop = SearchJob.of(ctx, prompt, reward, options, chunks={}, strategy=parse("prefix")).loop
        loop.branches_kv = branches_kv
        return loop

    began = time.perf_counter()
    return session.carry_out(
        begin, lambda loop, stopped: SearchResult.of(loop, time.perf_counter() - began, (), stopped)
    )


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no peer searches)
    """Measure seconds a generated token of ETS with sharing against REBASE and ETS without; K/V stand in the notes.

    In float32 wherever it runs: in half precision the draws of two ways to round would part.
    """
    bench = make(shape or ("s06" if torch.cuda.is_available() else "s01"), torch.float32)
    tokens = context or PROMPT
    regime = bench.regime(prompt=tokens, depth=DEPTH, step=STEP, rounds=rounds) | {"batch": WIDTH}
    prompt = bench.text(bench.ids(tokens, seed=1))
    with nbkv.load(bench.model, tokenizer=bench.tokenizer) as session:
        first = {name: _search(session, prompt, *how) for name, how in _WAYS.items()}
        if refused := _differs(first):
            return [BenchRow(name=NAME, regime=regime, against=ALONE, refused=refused)]
        seconds = interleaved(_candidates(session, bench, prompt), rounds)
        notes = _held(first)
    return [
        BenchRow(
            name=NAME, regime=regime, against=ALONE, baseline=seconds["rebase alone"], ours=seconds["ets"], notes=notes
        ),
        BenchRow(name=NAME, regime=regime, against=SAME, baseline=seconds["ets alone"], ours=seconds["ets"]),
        BenchRow(
            name=NAME, regime=regime, against="rebase with sharing", baseline=seconds["rebase"], ours=seconds["ets"]
        ),
    ]


_WAYS: dict[str, tuple[str, Place]] = {
    "ets": ("ets", SharedBranches),
    "rebase": ("rebase", SharedBranches),
    "rebase alone": ("rebase", RepeatedBranches),
    "ets alone": ("ets", RepeatedBranches),
}


def _search(session: Session, prompt: str, method: str, place: Place) -> SearchResult:
    sizes = {"width": WIDTH, "depth": DEPTH, "step_tokens": STEP, "max_new_tokens": DEPTH * STEP}
    return searched(session, prompt, drawn, branches_kv=place, method=method, embedding=meanings, **sizes)


def drawn(texts: Sequence[str]) -> list[float]:
    """Return for each text a reward from 0 to 1 that is always the same and else as good as drawn."""
    return [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) / 2**32 for text in texts]


def meanings(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return for each text one of a few meanings, drawn in the same way."""
    return np.eye(MEANINGS)[[int(MEANINGS * value) for value in drawn([f"{text}?" for text in texts])]]


def _differs(found: dict[str, SearchResult]) -> str:
    """Return which search is another one without sharing; "" where all are the same to the token."""
    for method in ("ets", "rebase"):
        shared, alone = ([each.token_ids for each in found[name].trajectories] for name in (method, f"{method} alone"))
        if shared != alone or found[method].generated != found[f"{method} alone"].generated:
            return f"{method} finds other answers without sharing"
    return ""


def _candidates(session: Session, bench: Bench, prompt: str) -> list[TimedCandidate]:
    def timed(how: tuple[str, Place]) -> Callable[[object], float]:
        def work(_: object) -> float:
            found = _search(session, prompt, *how)
            if bench.model.device.type == "cuda":
                torch.cuda.synchronize(bench.model.device)
            return found.seconds / found.generated

        return work

    return [TimedCandidate(name, timed(how)) for name, how in _WAYS.items()]


def _held(found: dict[str, SearchResult]) -> tuple[str, ...]:
    average = {name: each.kv_bytes["average"] / 2**20 for name, each in found.items()}
    peak = {name: each.kv_bytes["peak"] / 2**20 for name, each in found.items()}
    held = "; ".join(f"{name} {average[name]:.0f} (at most {peak[name]:.0f})" for name in found)
    apart, together = (average[name] / average["ets"] for name in ("rebase alone", "rebase"))
    return (
        f"K/V on average, MiB: {held}",
        f"ets holds {apart:.1f} x less than rebase without sharing, {together:.2f} x less than rebase with",
    )
