"""Branches of a search: an answer under way, and where the K/V of many of them lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from nbkv.families.search.tree import SearchNode
from nbkv.kv import KV
from nbkv.models.adapter import ModelAdapter
from nbkv.models.sampling import Chooser
from nbkv.models.trees.token_tree import TokenTree
from nbkv.models.trees.tree_pass import TreePass, run
from nbkv.models.work import Work
from nbkv.prompts.text_stream import TextStream


@dataclass(eq=False)
class Branch:
    """An answer under way: the step it is at, what draws its tokens, its text, and the number of its K/V.

    ``step`` is the text of the step, ``step_over`` says that it has ended; ``hidden`` ``[H]`` sums up the hidden states
    that its tokens were drawn from.
    """

    node: SearchNode
    chooser: Chooser
    text: TextStream
    tokens: list[int]
    slot: int
    step: TextStream | None = None
    step_over: bool = False
    hidden: torch.Tensor | None = None

    @property
    def growing(self) -> bool:
        """Return whether its step goes on."""
        return not (self.step_over or self.node.ended)


class BranchKV(Protocol):
    """Where the K/V of branches lie, and how a token of each runs."""

    @property
    def held_tokens(self) -> int:
        """Return the tokens whose K/V are held, the prompt's included."""

    @property
    def alone_tokens(self) -> int:
        """Return how many these would be if every branch held all of its own."""

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated."""

    def begin(self) -> int:
        """Begin a branch behind the prompt; return its number."""

    def fork(self, number: int) -> int:
        """Begin a branch that goes on from what ``number`` has; return its number."""

    def keep(self, numbers: Sequence[int]) -> None:
        """End all branches but ``numbers``, which are numbered anew in that order, and free what they alone had."""

    def run(self, numbers: Sequence[int], tokens: Sequence[int], work: Work) -> torch.Tensor:
        """Run the next token of each of ``numbers``; return the logits ``[n, V]`` after them."""


class SharedBranches(BranchKV):
    """Branches in one tree, where each token's K/V lie once and are read once."""

    def __init__(self, pieces: Sequence[KV], adapter: ModelAdapter) -> None:
        """Begin without branches behind the K/V ``pieces`` of the prompt."""
        self._adapter = adapter
        self._tree = TokenTree(pieces, adapter.n_layers, adapter.device)

    @property
    def held_tokens(self) -> int:
        """Return the tokens whose K/V are held, the prompt's included."""
        return self._tree.base + self._tree.held

    @property
    def alone_tokens(self) -> int:
        """Return how many these would be if every branch held all of its own."""
        return self._tree.alone

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated."""
        return self._tree.nbytes + self._tree.shared_bytes

    def begin(self) -> int:
        """Begin a branch behind the prompt; return its number."""
        return self._tree.begin()

    def fork(self, number: int) -> int:
        """Begin a branch that goes on from what ``number`` has; return its number."""
        return self._tree.fork(number)

    def keep(self, numbers: Sequence[int]) -> None:
        """End all branches but ``numbers``, which are numbered anew in that order, and free what they alone had."""
        self._tree.keep(numbers)

    def run(self, numbers: Sequence[int], tokens: Sequence[int], work: Work) -> torch.Tensor:
        """Run the next token of each of ``numbers``; return the logits ``[n, V]`` after them."""
        return run(self._adapter, TreePass(self._tree, numbers, tokens), work)
