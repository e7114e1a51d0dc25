"""The prefix tree of a batch, collapsed to one shared prefix a prompt (BatchLLM, arXiv 2412.03594, section 4.2).

The tree of all prompts has many levels; attention over a shared prefix is cheap when it has one. So every prompt is
given one of its ancestors in the tree as its group's prefix, or none: that choice of prefixes is taken that computes
the fewest tokens, a prefix once for its group and the rest of each prompt by itself. Found by dynamic programming over
the tree, whose nodes are the intervals of equal beginnings among the sorted prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(eq=False)
class _PromptNode:
    """Prompts that begin with the same ``depth`` tokens: ``leaves`` by index, and nodes of more tokens in common.

    ``saved`` [levels]: the most tokens that need not run for the prompts here if they may also have the prefix of one
    level above, by level; ``opened``: if this node is a group's prefix. ``known``: how much of any of them is stored.
    """

    depth: int
    leaves: list[int] = field(default_factory=list)
    below: list[_PromptNode] = field(default_factory=list)
    saved: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))
    opened: int = 0
    known: int = 0


@dataclass(frozen=True)
class SharedPrefix:
    """Prompts by index that are to share their first ``tokens`` tokens."""

    tokens: int
    members: tuple[int, ...]


def shared_prefixes(prompts: Sequence[Sequence[int]], known: Sequence[int], least: int) -> list[SharedPrefix]:
    """Return for all ``prompts`` which prefix each shares, groups of one and of nothing shared included.

    The last token of a prompt is never shared: it has to run, for its logits. Of prompt i the first ``known[i]`` tokens
    are stored already, and cost nothing. Prefixes of fewer than ``least`` tokens are none, and for fewer tokens more
    than its group has, no prompt reads a stored prefix of its own. Prompts without any are one group.
    """
    keys = [tuple(prompt[:-1]) for prompt in prompts]
    own = [
        tokens if tokens >= least else 0 for tokens in (min(a, len(key)) for a, key in zip(known, keys, strict=True))
    ]
    root = _tree(keys)
    order = _preorder(root)
    levels = {id(root): np.zeros(1, dtype=np.int64)}
    for node in order:
        for child in node.below:
            levels[id(child)] = np.append(levels[id(node)], node.depth)
    for node in reversed(order):
        _solve(node, levels[id(node)], own, least)
    return _chosen(root, own, least)


def _tree(keys: Sequence[tuple[int, ...]]) -> _PromptNode:
    """Return the root of the tree of ``keys``: sorted, what neighbours have in common are its nodes."""
    order = sorted(range(len(keys)), key=lambda at: keys[at])
    root = _PromptNode(0)
    path = [root]
    for number, at in enumerate(order):
        before = common(keys[order[number - 1]], keys[at]) if number else 0
        behind = common(keys[at], keys[order[number + 1]]) if number + 1 < len(order) else 0
        last = None
        while path[-1].depth > before:
            last = path.pop()
        if path[-1].depth < before:
            path.append(_split(path[-1], before, last))
        if behind > path[-1].depth:
            path[-1].below.append(_PromptNode(behind))
            path.append(path[-1].below[-1])
        path[-1].leaves.append(at)
    return root


def _split(above: _PromptNode, depth: int, last: _PromptNode | None) -> _PromptNode:
    """Put a node of ``depth`` between ``above`` and its ``last`` child."""
    node = _PromptNode(depth)
    assert last is not None  # noqa: S101  (what is in common with a neighbour was opened with that neighbour)
    above.below[-1] = node
    node.below.append(last)
    return node


def _preorder(root: _PromptNode) -> list[_PromptNode]:
    found, left = [], [root]
    while left:
        found.append(left.pop())
        left += found[-1].below
    return found


def _solve(node: _PromptNode, levels: NDArray[np.int64], own: Sequence[int], least: int) -> None:
    """Find ``saved`` of a node whose children have theirs; ``levels`` are the depths above it."""
    deep = np.append(levels, node.depth)
    total = np.zeros(len(deep), dtype=np.int64)
    for child in node.below:
        total += child.saved
        node.known = max(node.known, child.known)
    for leaf in node.leaves:
        total += np.maximum(deep, np.where(deep > 0, own[leaf] - least, own[leaf]))
        node.known = max(node.known, own[leaf])
    node.opened = int(total[-1]) - max(0, node.depth - node.known) if node.depth >= least else -1
    node.saved = np.maximum(total[:-1], node.opened)


def _chosen(root: _PromptNode, own: Sequence[int], least: int) -> list[SharedPrefix]:
    """Walk down the choices that ``_solve`` found best."""
    groups: dict[_PromptNode | None, list[int]] = {None: []}
    alone: list[SharedPrefix] = []
    left: list[tuple[_PromptNode, _PromptNode | None, int]] = [(root, None, 0)]
    while left:
        node, group, level = left.pop()
        # of equal choices the prefix: other groups may begin with it, and leave it in the store
        if node.opened >= 0 and node.opened == node.saved[level] and node.depth:
            group, level = node, len(node.saved)  # the level of this very node in its children's tables
        for leaf in node.leaves:
            if own[leaf] > (group.depth + least if group else 0):
                alone.append(SharedPrefix(own[leaf], (leaf,)))
            else:
                groups.setdefault(group, []).append(leaf)
        left += [(child, group, level) for child in node.below]
    shared = [SharedPrefix(group.depth if group else 0, tuple(sorted(some))) for group, some in groups.items() if some]
    return [*shared, *alone]


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many first tokens are the same."""
    n = min(len(one), len(other))
    if one[:n] == other[:n]:
        return n
    differs = np.fromiter(one[:n], np.int64, n) != np.fromiter(other[:n], np.int64, n)
    return int(differs.argmax())
