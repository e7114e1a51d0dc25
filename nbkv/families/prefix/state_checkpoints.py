"""Where a prompt of a model with recurrent layers is cut, so that later prompts can go on from there.

Attention's K/V can be continued behind any token; states only where somebody kept a clone. A clone costs the same
however short the text before it, so there are few: before the last token of a prompt, at the end of an answer, where
two prompts turned out to part (Marconi, arXiv 2411.19379, section 4.1), and every ``segment`` tokens of a long prompt
(the segments of Memory Caching, arXiv 2602.24281, kept as checkpoints).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.recurrent import LayerStates, StateCache
from nbkv.models.capabilities import Capabilities
from nbkv.models.work import Work
from nbkv.stores.base import Lease
from nbkv.stores.state_checkpoints import StateCheckpoint

_LEAST = 16  # tokens that a branch point must save: a pass of its own costs about as much
_SEGMENT = 1024  # tokens, the least that a segment has unless it was asked for
_SHARE = 16  # the segments of one prompt may take 1/16 of the store


def least(n: int, found: Capabilities) -> int:
    """Return the least position of a state checkpoint from which a prompt of ``n`` tokens is continued.

    Where the rest is run token by token, it must not be longer than what is saved.
    """
    return -(-n // 2) if found.states == "tokens" else 0


def segment(n: int, found: Capabilities, limit: int) -> int:
    """Return the interval of state checkpoints in a prompt of ``n`` tokens, for a store of ``limit`` bytes; 0: none.

    A power of two, so that prompts of different lengths are cut in the same places.
    """
    most = limit // _SHARE // max(1, found.state_bytes)
    if not most or found.states == "tokens":
        return 0
    step = _SEGMENT
    while n // step > most:
        step *= 2
    return step


def cuts(n: int, lease: Lease, found: Capabilities, every: int) -> list[int]:
    """Return the positions of a prompt of ``n`` at which checkpoints are made, ascending, after ``lease.matched``."""
    wanted = {n - 1} | (set(range(every, n, every)) if every and found.states == "passes" else set())
    rest_is_short = found.states == "passes" or n - lease.branch <= lease.branch
    if lease.branch - lease.matched >= _LEAST and rest_is_short:
        wanted.add(lease.branch)
    return sorted(at for at in wanted if at > lease.matched)


class PrefillPass(NamedTuple):
    """The logits ``[V]`` after a prompt, states behind some of its tokens, and how many were run one by one."""

    logits: torch.Tensor
    states: Sequence[LayerStates] = ()
    one_by_one: int = 0


def run(adapter: ModelAdapter, ids: Sequence[int], cache: StateCache, stops: Sequence[int], work: Work) -> PrefillPass:
    """Run the tokens of ``ids`` behind those of ``cache``, and clone the recurrent states at ``stops``."""
    kept, first = [], cache.length or (*stops, len(ids))[0]
    for begin, stop in pairwise((cache.length, *stops, len(ids))):
        logits = adapter.forward(adapter.tensor(ids[begin:stop]), cache, start=begin, work=work)[-1]
        if stop < len(ids) and (states := cache.checkpoint()) is not None:
            kept.append(states)
    return PrefillPass(logits, kept, len(ids) - first if adapter.capabilities.states == "tokens" else 0)


def checkpoints(states: Sequence[LayerStates | None], adapter: ModelAdapter) -> tuple[StateCheckpoint, ...]:
    """Return ``states`` as checkpoints, each with the FLOPs that it took."""
    return tuple(StateCheckpoint(each, flops(each.at, adapter)) for each in states if each is not None)


def flops(n: int, adapter: ModelAdapter) -> float:
    """Return about how many FLOPs a prefill of ``n`` tokens takes: two for each weight, and attention's square.

    All experts count as if they were run; what is asked is only how cost grows with length.
    """
    found = adapter.capabilities
    widths = zip(found.kv_heads, found.key_dim, found.value_dim, strict=True)
    scores = sum(heads * found.groups * (key + value) for heads, key, value in widths)
    return 2.0 * adapter.weights * n + float(scores) * n * n
