"""Proves whether a model goes on from clones of its recurrent states, and whether in a pass over several tokens.

Some layers ignore their states in a pass over more than one token, and say nothing: the answer is wrong without an
error. Others keep their states in the module, where no clone reaches them. So a model is believed only after sequences
that were left and taken up again gave its own logits, and its own states too, which tell more than the logits of a
model whose states happen to matter little.
"""

from __future__ import annotations

from itertools import pairwise
from math import isfinite

import torch

from nbkv.fidelity import scaled_error
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.recurrent import StateCache
from nbkv.models.caches.states import LayerStates
from nbkv.models.caches.token_log import TokenLog

_STATE_TOLERANCE = 1e-3  # of a state's largest number: sums of many tokens, taken in another order
_ROUNDINGS = 32  # in half precision: as many units in the last place
_SHORT = 2  # tokens, fewer than any convolution's kernel


def failing(adapter: ModelAdapter, plain: ModelAdapter, cache: StateCache, ids: torch.Tensor, limit: float) -> str:
    """Return why ``adapter``, told by its ``states`` how, does not go on from clones; empty if it does.

    ``cache`` is filled with ``ids`` ``[n]``; ``plain`` is the model's own forward, ``limit`` the scaled error of logits
    allowed. Looked at: passes cut in several places, a clone taken up again after others were run, a branch that
    differs from the clone on, and the states in the end.
    """
    try:
        return _tried(adapter, plain, cache, ids, limit)
    except Exception as refusal:  # noqa: BLE001  (a family may refuse a cache in any way; the reason is kept and told)
        why = next(iter(str(refusal).splitlines()), "")
        return f"its states cannot be cloned: it does not take our cache ({type(refusal).__name__}: {why:.60})"


def _tried(adapter: ModelAdapter, plain: ModelAdapter, cache: StateCache, ids: torch.Tensor, limit: float) -> str:
    n, half = len(ids), len(ids) // 2
    whole = adapter.stateful()
    adapter.forward(ids, whole, start=0)
    begun = _run(adapter, ids, cache, (0, _SHORT, half))
    middle = cache.checkpoint()
    if middle is None or not middle.nbytes:
        return "its recurrent layers keep their states where nothing can clone them"
    ahead = _run(adapter, ids, cache, (half, n - 1, n))
    branch = torch.cat((ids[:half], ids[half:].flip(0)))
    cache.resume(middle)
    aside = _run(adapter, branch, cache, (half, n))
    cache.resume(middle)
    again = _run(adapter, ids, cache, (half, n))
    # in half precision a step rounds otherwise than a long pass does: steps are held against the model's own steps
    stepped = adapter.dtype != torch.float32 and adapter.capabilities.states == "tokens"
    own, other = (_own(plain, each, stepped=stepped) for each in (ids, branch))
    pairs = ((begun, own[:half]), (ahead, own[half:]), (aside, other[half:]), (again, own[half:]))
    if (worst := max(scaled_error(got, want) for got, want in pairs)) > limit:
        return f"continued from a clone of its states, logits differ by {worst:.1e} (limit {limit:.1e})"
    off = _states_differ(cache.checkpoint(), whole.checkpoint(), adapter.dtype)
    return (
        f"continued from a clone of its states, the states after it differ, by {off:.1e} of their size" if off else ""
    )


def _own(plain: ModelAdapter, ids: torch.Tensor, *, stepped: bool) -> torch.Tensor:
    """Return the model's own logits after each of ``ids``, in one pass or after two tokens in single steps."""
    if not stepped:
        return plain.forward(ids, TokenLog(), start=0, keep=len(ids)).float()
    cache = plain.family_cache()
    first = plain.forward(ids[:_SHORT], cache, start=0, keep=_SHORT)
    steps = [plain.forward(ids[at : at + 1], cache, start=at) for at in range(_SHORT, len(ids))]
    return torch.cat([first, *steps]).float()


def _run(adapter: ModelAdapter, ids: torch.Tensor, cache: StateCache, cuts: tuple[int, ...]) -> torch.Tensor:
    passes = pairwise(cuts)
    return torch.cat([adapter.forward(ids[a:b], cache, start=a, keep=b - a) for a, b in passes]).float()


def _states_differ(got: LayerStates | None, want: LayerStates | None, dtype: torch.dtype) -> float:
    """Return the largest error of a state, over its own largest number, if it is more than rounding; else 0."""
    if got is None or want is None:
        return float("inf")
    tolerance = _STATE_TOLERANCE if dtype == torch.float32 else _ROUNDINGS * float(torch.finfo(dtype).eps)
    pairs = [
        (mine[name], state) for mine, own in zip(got.layers, want.layers, strict=True) for name, state in own.items()
    ]
    errors = [float((mine - state).abs().max() / state.abs().max().clamp(min=1e-30)) for mine, state in pairs]
    worst = max((error if isfinite(error) else float("inf") for error in errors), default=0.0)
    return worst if worst > tolerance else 0.0
