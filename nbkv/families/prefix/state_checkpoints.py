"""Where a prompt of a model with recurrent layers is cut, so that later prompts can go on from there.

Attention's K/V can be continued behind any token; states only where somebody kept a clone. A clone costs the same
however short the text before it, so there are few: before the last token of a prompt, at the end of an answer, where
two prompts turned out to part (Marconi, arXiv 2411.19379, section 4.1), and every ``segment`` tokens of a long prompt
(the segments of Memory Caching, arXiv 2602.24281, kept as checkpoints).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple, cast

import torch

from nbkv.fidelity import scaled_error
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.caches.recurrent import StateCache
from nbkv.models.caches.states import LayerStates
from nbkv.models.capabilities import Capabilities
from nbkv.models.work import Work
from nbkv.stores.base import Lease
from nbkv.stores.snapshots.base import Snapshots
from nbkv.stores.snapshots.resting_states import STATES
from nbkv.stores.state_checkpoints import GoldenToken, StateCheckpoint
from nbkv.stores.tiers.guard import out_of_memory

_LEAST = 16  # tokens that a branch point must save: a pass of its own costs about as much
_SEGMENT = 1024  # tokens, the least that a segment has unless it was asked for
_EXACT = 1e-4  # of logits over max(1, max|logit|): the house's rule
_ROUNDINGS = 16  # units in the last place of half precision: other devices add in another order
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
    """The logits ``[V]`` after a prompt, states behind some of its tokens, and how many were run one by one.

    ``golden`` are tokens that were run behind those states, by their position.
    """

    logits: torch.Tensor
    states: Sequence[LayerStates] = ()
    one_by_one: int = 0
    golden: Mapping[int, GoldenToken] = {}


def run(
    adapter: ModelAdapter,
    ids: Sequence[int],
    cache: GrowingCache,
    stops: Sequence[int],
    work: Work,
    *,
    proved: bool = False,
) -> PrefillPass:
    """Run the tokens of ``ids`` behind those of ``cache``, and clone the recurrent states at ``stops``.

    With ``proved`` the token behind each of them runs alone: what comes out is that checkpoint's golden token.
    """
    kept: list[LayerStates] = []
    golden: dict[int, GoldenToken] = {}
    first = cache.length or (*stops, len(ids))[0]
    alone = {stop + 1 for stop in stops if proved} - set(stops)
    for begin, stop in pairwise((cache.length, *sorted({*stops, *alone} - {len(ids)}), len(ids))):
        logits = adapter.forward(adapter.tensor(ids[begin:stop]), cache, start=begin, work=work)[-1]
        if proved and kept and kept[-1].at == begin == stop - 1:
            golden[begin] = GoldenToken(ids[begin], logits.float().cpu())
        if stop in stops and stop < len(ids) and (states := cache.checkpoint()) is not None:
            kept.append(states)
    one_by_one = len(ids) - first if adapter.capabilities.states == "tokens" else 0
    return PrefillPass(logits, kept, one_by_one, golden)


def checkpoints(
    states: Sequence[LayerStates | None], adapter: ModelAdapter, golden: Mapping[int, GoldenToken] | None = None
) -> tuple[StateCheckpoint, ...]:
    """Return ``states`` as checkpoints, each with the FLOPs that it took and with its ``golden`` token, if any."""
    known = golden or {}
    made = (each for each in states if each is not None)
    return tuple(StateCheckpoint(each, flops(each.at, adapter), known.get(each.at)) for each in made)


def are_kept(snapshots: Snapshots | None) -> bool:
    """Return whether states outlive this process, in tiers that take them."""
    return snapshots is not None and snapshots.takes(STATES)


def disproved(adapter: ModelAdapter, cache: GrowingCache, lease: Lease) -> str:
    """Have ``cache`` go on from the states that ``lease`` has from a tier; return why not to, empty if all is well.

    Some models give wrong logits when they are taken up again, without an error: the golden token tells.
    """
    assert lease.checkpoint is not None  # noqa: S101
    golden, states = lease.checkpoint.golden, lease.checkpoint.states
    assert golden is not None  # noqa: S101  (no other checkpoint comes from a tier)
    where = adapter.devices
    each = [where[min(layer, len(where) - 1)] for layer in range(adapter.n_layers)]
    try:
        placed = cast("StateCache", cache).placed(states.layers, states.at, each)
        cache.resume(placed)
        got = adapter.forward(adapter.tensor([golden.token]), cache, start=states.at)[-1].float().cpu()
        cache.resume(placed)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:  # as of other shapes, or another number of them
        if out_of_memory(error):
            raise
        return f"the model does not take them ({type(error).__name__})"
    lease.checkpoint = replace(lease.checkpoint, states=placed)
    limit = _EXACT if adapter.dtype.itemsize >= torch.float32.itemsize else _ROUNDINGS * torch.finfo(adapter.dtype).eps
    off = scaled_error(got, golden.logits) if got.shape == golden.logits.shape else float("inf")
    return "" if off <= limit else f"the golden token's logits differ by {off:.1e} (limit {limit:.1e})"


def flops(n: int, adapter: ModelAdapter) -> float:
    """Return about how many FLOPs a prefill of ``n`` tokens takes: two for each weight, and attention's square.

    All experts count as if they were run; what is asked is only how cost grows with length.
    """
    found = adapter.capabilities
    widths = zip(found.kv_heads, found.key_dim, found.value_dim, strict=True)
    scores = sum(heads * found.groups * (key + value) for heads, key, value in widths)
    return 2.0 * adapter.weights * n + float(scores) * n * n
