"""The loop of a search: at every depth the branches that go on, a step of each, and what the steps are worth.

Branches of a depth are decoded together, one token of each in a pass, and end their steps at their own pace. The last
token of a step is run once, by the node it belongs to, and all children draw their first token from those logits. A
node's first child goes on drawing from its seed, others from seeds of their own: a search of width 1 is ``generate``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nbkv.errors import NbkvError
from nbkv.families.prefix.base import held
from nbkv.families.search.methods import SearchMethod
from nbkv.families.search.rewards import Embedding, Reward, embedded, scored
from nbkv.families.search.tree import SearchNode
from nbkv.inference.search.branches import Branch, BranchKV, SharedBranches
from nbkv.inference.search.search_request import SearchRequest
from nbkv.kv import KV
from nbkv.models.adapter import ModelAdapter
from nbkv.models.sampling import Chooser
from nbkv.models.trees.last_hidden import LastHidden, last_hidden
from nbkv.models.work import Unfollowed, Work
from nbkv.prompts.text_stream import TextStream

_QUICK_S = 0.1  # after a pass that took less, a stop can wait for the end of the next one
_SEEDS = 2**64


@dataclass(frozen=True, kw_only=True)
class SearchPlan:
    """What is searched, and how.

    ``width`` branches, ``depth`` steps at most; a step ends behind one of the texts ``step_stop``, or after
    ``step_tokens``. ``embedding`` None is the model's own mean hidden state.
    """

    method: SearchMethod
    reward: Reward
    width: int
    depth: int
    step_stop: tuple[str, ...]
    step_tokens: int
    embedding: Embedding | None = None


@dataclass(kw_only=True)
class StepFigures:
    """One depth of a search: its branches, what they said, and the K/V held at its end.

    ``parents`` nodes had ``branches`` new steps, of ``tokens`` in all, in ``passes``. ``held_bytes``: K/V of prompt and
    tree, each token's once; ``alone_bytes``: what they would be if every branch held its own; ``allocated_bytes``: the
    memory. ``best`` is the highest reward, ``ended`` how many answers ended here.
    """

    depth: int
    parents: int
    branches: int
    tokens: int = 0
    passes: int = 0
    held_bytes: int = 0
    alone_bytes: int = 0
    allocated_bytes: int = 0
    best: float | None = None
    ended: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class TreeLoop:
    """A search under way, as long work: ``steps`` runs it, everything else is what there is so far.

    ``answers`` are the nodes that end one, ``errors`` those of rewards, by the node's number. ``branches_kv`` makes the
    place of the branches' K/V, behind the pieces of the prompt.
    """

    request: SearchRequest
    plan: SearchPlan
    branches_kv: Callable[[Sequence[KV], ModelAdapter], BranchKV] = SharedBranches
    nodes: list[SearchNode] = field(default_factory=list)
    answers: list[SearchNode] = field(default_factory=list)
    figures: list[StepFigures] = field(default_factory=list)
    errors: dict[int, NbkvError] = field(default_factory=dict)
    peak_bytes: int = 0
    _open: list[Branch] = field(default_factory=list)
    _seeds: int = 0
    _hidden: LastHidden | None = None

    work = "search"

    @property
    def total(self) -> int:
        """Return the most steps it takes."""
        return self.plan.depth

    def found(self) -> dict[str, Any]:
        """Return nothing: half a search has no view of its own."""
        return {}

    def steps(self) -> Generator[str]:
        """Search; before each depth yield what is done there."""
        ctx, plan, ids = self.request.ctx, self.plan, self.request.prompt.ids
        self.request.began()
        with ExitStack() as stack:
            if plan.method.embeds and plan.embedding is None:
                self._hidden = stack.enter_context(last_hidden(ctx.adapter))
            pieces, matched = stack.enter_context(held(ids[:-1], ctx, ctx.work())) if len(ids) > 1 else ((), 0)
            self.request.prefilled(matched)
            self._kv, self._quick = self.branches_kv(pieces, ctx.adapter), False
            self._open = [self._root()]
            try:
                for depth in range(1, plan.depth + 1):
                    shares = self._shares()
                    if not any(shares):
                        break
                    yield f"step {depth}, {sum(shares)} branches"
                    self._deepen(depth, shares)
            except BaseException:
                self._end("interrupted")
                raise
            self._end("length")

    # one depth

    def _deepen(self, depth: int, shares: Sequence[int]) -> None:
        """Expand the open branches by their ``shares``, and have the new ones scored."""
        began = time.perf_counter()
        parents = [(branch, share) for branch, share in zip(self._open, shares, strict=True) if share]
        step = StepFigures(depth=depth, parents=len(parents), branches=sum(share for _, share in parents))
        self.figures.append(step)
        self._open = [branch for branch, _ in parents]
        try:
            self._expand(parents, step)
            while growing := [branch for branch in self._open if branch.growing]:
                self._take(growing, self._pass(growing, step), range(len(growing)))
        finally:
            self._write_down(step)
            step.seconds = time.perf_counter() - began
        self._score(step)
        step.seconds = time.perf_counter() - began

    def _expand(self, parents: Sequence[tuple[Branch, int]], step: StepFigures) -> None:
        """Run the last token of each parent, once, and begin its children with the logits after that."""
        leaves = [branch for branch, _ in parents]
        self._kv.keep([branch.slot for branch in leaves])
        for slot, branch in enumerate(leaves):
            branch.slot = slot
        logits = self._pass(leaves, step)
        new = [child for parent, share in parents for child in self._children(parent, share, step.depth)]
        self._open = new
        self._take(new, logits, [at for at, (_, share) in enumerate(parents) for _ in range(share)])

    def _children(self, parent: Branch, share: int, depth: int) -> list[Branch]:
        """Return ``share`` branches that go on from ``parent``, the first in its place."""
        parent.node.children = share
        made = []
        for number in range(share):
            first = number if depth == 1 else parent.node.first
            node = SearchNode(number=len(self.nodes), parent=parent.node, depth=depth, first=first)
            self.nodes.append(node)
            chooser, slot = parent.chooser, parent.slot
            if number:
                self._seeds += 1
                chooser = chooser.branch((self.request.sampling.seed + self._seeds) % _SEEDS)
                slot = self._kv.fork(slot)
            made.append(Branch(node, chooser, parent.text.branch(), list(parent.tokens), slot))
        return made

    def _pass(self, branches: Sequence[Branch], step: StepFigures) -> torch.Tensor:
        """Run the last token of each of ``branches``; return the logits ``[n, V]`` after it."""
        ctx = self.request.ctx
        ctx.stopper.check()
        work = Unfollowed() if self._quick else Work(on_layer=lambda *_: ctx.stopper.check())
        last, began = self.request.prompt.ids[-1], time.perf_counter()
        tokens = [branch.tokens[-1] if branch.tokens else last for branch in branches]
        logits = self._kv.run([branch.slot for branch in branches], tokens, work)
        self._quick = time.perf_counter() - began < _QUICK_S
        self.request.passed(work)
        size, step.allocated_bytes = ctx.adapter.token_bytes, self._kv.nbytes
        step.held_bytes, step.alone_bytes = self._kv.held_tokens * size, self._kv.alone_tokens * size
        self.peak_bytes = max(self.peak_bytes, step.allocated_bytes)
        step.passes += 1
        return logits

    def _take(self, branches: Sequence[Branch], logits: torch.Tensor, rows: Sequence[int]) -> None:
        """Draw the next token of each of ``branches`` from its row of ``logits`` ``[n, V]``."""
        largest = logits.argmax(-1).tolist() if any(branch.chooser.plain for branch in branches) else []
        for branch, row in zip(branches, rows, strict=True):
            token = largest[row] if branch.chooser.plain else branch.chooser.choose(logits[row])
            if self._hidden is not None:
                state = self._hidden.rows[row]
                branch.hidden = state.clone() if branch.hidden is None else branch.hidden + state
            self._add(branch, token, logits[row])

    def _add(self, branch: Branch, token: int, logits: torch.Tensor) -> None:
        """Add ``token`` to ``branch``, and find out whether its step or its answer ends with it."""
        node, ctx = branch.node, self.request.ctx
        branch.tokens.append(token)
        node.token_ids.append(token)
        branch.text.add(token)
        branch.step = branch.step or TextStream(ctx.codec, self.plan.step_stop)
        branch.step.add(token)
        if branch.chooser.add(token, logits) or token in ctx.eos or branch.text.stopped:
            node.ended = "stop"
        elif len(branch.tokens) >= self.request.sampling.max_new_tokens:
            node.ended = "length"
        elif len(node.token_ids) >= self.plan.step_tokens:
            branch.step_over = True
        elif branch.step.stopped:
            branch.step_over = bool(branch.step.text.strip())  # an empty line says nothing
            branch.step = None

    # what there is

    def _shares(self) -> list[int]:
        """Return how many children each open branch is given."""
        leaves = [branch.node for branch in self._open]
        ended = [*self.answers, *(self.nodes[number] for number in self.errors)]
        return self.plan.method.shares(leaves, self.plan.width, ended) if leaves else []

    def _write_down(self, step: StepFigures) -> None:
        """Give the new nodes their texts and sizes, also where a depth was stopped."""
        size = self.request.ctx.adapter.token_bytes
        for branch in self._open:
            node = branch.node
            if node.depth == step.depth:
                node.answer = branch.text.text
                before = "" if node.parent is None else node.parent.answer
                node.text = node.answer[len(before.rstrip("\ufffd")) :]  # bytes that were no character yet
                node.nbytes = len(node.token_ids) * size
                step.tokens += len(node.token_ids)

    def _score(self, step: StepFigures) -> None:
        """Have the new branches scored; those that may go on stay open."""
        given = scored(self.plan.reward, {branch.node.number: branch.node.answer for branch in self._open})
        well = []
        for branch in self._open:
            reward = given[branch.node.number]
            if isinstance(reward, NbkvError):
                self.errors[branch.node.number] = reward
                branch.node.ended = "failed"
            else:
                branch.node.reward = reward
                step.best = reward if step.best is None else max(step.best, reward)
                well.append(branch)
        ended = [branch.node for branch in well if branch.node.ended]
        self.answers += ended
        step.ended, self._open = len(ended), [branch for branch in well if not branch.node.ended]
        if self.plan.method.embeds:
            self._embed(self._open)

    def _embed(self, branches: Sequence[Branch]) -> None:
        """Give each node what its step means."""
        if not branches:
            return
        if self.plan.embedding is not None:
            made = embedded(self.plan.embedding, [branch.node.text for branch in branches])
        else:
            made = [np.asarray((b.hidden / len(b.node.token_ids)).cpu()) for b in branches if b.hidden is not None]
        for branch, vector in zip(branches, made, strict=True):
            branch.node.embedding = vector

    def _end(self, reason: str) -> None:
        """End the answers that are still open: at the last depth, or where the search was stopped."""
        for branch in self._open:
            node = branch.node
            if node.depth and node.token_ids and not node.children:
                node.ended = node.ended or reason
                self.answers.append(node)
        self._open = []

    def _root(self) -> Branch:
        request, node = self.request, SearchNode(number=0, reward=0.0)
        self.nodes.append(node)
        adapter = request.ctx.adapter
        config = getattr(adapter.model, "generation_config", None)
        chooser = Chooser(request.sampling, config, request.prompt.ids, adapter.device)
        return Branch(node, chooser, TextStream(request.ctx.codec, request.sampling.stop), [], self._kv.begin())
