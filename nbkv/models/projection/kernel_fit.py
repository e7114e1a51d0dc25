"""Find out which layers make K and V as the kernel does (``fused``), by running them.

Which modules lie between a layer's input and its K and V is found by hooks; whether that is all there is to it, by
comparing the kernel's K and V with the layer's own on a few rows. Class names and configs play no part.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from nbkv.models.adapter import ModelAdapter
from nbkv.models.capture import Sides
from nbkv.models.passes import layer_calls
from nbkv.models.projection.kernel import FusedProjection, KernelUnfit, KVRoute, angles, check_bare, eps
from nbkv.models.projection.project import CapturingCache, KVLinears, project_kv
from nbkv.models.walk import LayerCall
from nbkv.ops import fused

INPUT = "its input is not one row a token in float32 or bfloat16"
FEEDS = "it does not make K and V by two linear layers side by side"
NORM = "between its input and its linear layers there is more than a norm, or none"
KEYS = "its keys are changed by more than a norm over each head"
VALUES = "its V are not what one linear layer makes, or not of the size of its K"
EPS = "its two norms differ in eps"
ELSE = "what it does to K and V is not RMSNorm, linear layers and rotary halves alone"

# float16 is not among them: the kernel multiplies by the norm's weight before it divides by the row's size.
_DTYPES = (torch.float32, torch.bfloat16)
_ROWS = 16  # rows the kernel is tried on
_OFFSETS = (0.0, 1.0)  # what a norm adds to its weight
_TOLERANCE = 1e-5  # in float32, for values up to 1
_FACTOR = 4.0  # in bfloat16: how much further from float32 than the layer's own code; what is different is 100 times
_known: weakref.WeakKeyDictionary[nn.Module, tuple[str, list[KVRoute]]] = weakref.WeakKeyDictionary()


def fuse(adapter: ModelAdapter, feeds: Sequence[KVLinears]) -> list[KVRoute]:
    """Return for each layer how the kernel makes its K and V, or why it does not; nothing where kernels are not used.

    Found out once for these very weights; ``feeds`` are the layers' (``projection.learn``).
    """
    if not fused(adapter.tensor([0])):
        return []
    found = _known.get(adapter.model)
    if found is None or found[0] != adapter.fingerprint:
        calls = layer_calls(adapter, adapter.tensor([1, 2, 3, 4] * (_ROWS // 4)), CapturingCache(), start=0)
        assert adapter.walk is not None  # noqa: S101  (its layers were called)
        with torch.no_grad(), adapter.evaluating():
            each = zip(adapter.walk.layers, calls, feeds, strict=True)
            found = adapter.fingerprint, [_way(layer, call, reads) for layer, call, reads in each]
        _known[adapter.model] = found
    return found[1]


def _way(layer: nn.Module, call: LayerCall, feeds: KVLinears) -> KVRoute:
    try:
        return _fit(layer, call, feeds)
    except KernelUnfit as unfit:
        return KernelUnfit(unfit.why)  # without the frames it came through


def _fit(layer: nn.Module, call: LayerCall, feeds: KVLinears) -> FusedProjection:
    if call.hidden.dtype not in _DTYPES or call.hidden.ndim != 3:  # noqa: PLR2004  ([1, n, d])
        raise KernelUnfit(INPUT)
    if not feeds.common:
        raise KernelUnfit(FEEDS)
    call, seen = replace(call, hidden=_rows(call.hidden)), _LayerTrace()
    with _watching(layer, seen):
        own = project_kv(layer, call, call.hidden)
    assert own is not None  # noqa: S101  (it has feeds)
    check_bare(seen.passed)
    angles(call, own[0])
    k, v = _sides(feeds.used, seen, own)
    norm, k_norm = _norm(seen, k, call.hidden), _key_norm(seen, k, own[0].shape[-1])
    if k_norm is not None and eps(k_norm) != eps(norm):
        raise KernelUnfit(EPS)
    for offset in _OFFSETS:
        found = FusedProjection(tuple(dict.fromkeys(seen.passed)), norm, k, v, k_norm, offset)
        if _agrees(found, layer, call, own, feeds):
            return found
    raise KernelUnfit(ELSE)


def _rows(like: torch.Tensor) -> torch.Tensor:
    """Return made-up rows ``[1, n, d]``: no mean of zero, some so small that eps counts, some with one large value."""
    n, d = like.shape[-2:]
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(0)) + 0.5
    rows[1::4] *= 1e-3
    rows[range(2, n, 4), [7 * at % d for at in range(2, n, 4)]] = 100.0
    return rows[None].to(like)


@dataclass(eq=False)
class _LayerTrace:
    """What happened while a layer ran: modules in the order they were entered, and what those that ended made of what.

    It holds what was given and made, so that no memory is used twice meanwhile.
    """

    passed: list[nn.Module] = field(default_factory=list)
    ended: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    def enter(self, module: nn.Module, given: tuple[Any, ...]) -> None:  # noqa: ARG002
        """Note that ``module`` is about to run."""
        self.passed.append(module)

    def end(self, module: nn.Module, given: tuple[Any, ...], made: Any) -> None:  # noqa: ANN401  (whatever a module returns)
        """Note what ``module`` made, of one tensor."""
        if given and isinstance(given[0], torch.Tensor) and isinstance(made, torch.Tensor):
            self.ended.append((module, given[0], made))

    def by(self, module: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what ``module`` was given and what it made."""
        return next((given, made) for each, given, made in self.ended if each is module)


@contextmanager
def _watching(layer: nn.Module, seen: _LayerTrace) -> Iterator[None]:
    handles = []
    for module in layer.modules():
        handles += [module.register_forward_pre_hook(seen.enter), module.register_forward_hook(seen.end)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sides(used: Sequence[nn.Linear], seen: _LayerTrace, own: Sides) -> tuple[nn.Linear, nn.Linear]:
    """Return which of two linear layers makes K and which V: V is what comes out, cut into heads."""
    _, heads, _, width = own[1].shape
    plain = all(type(each.weight.data) is torch.Tensor and each.weight.dtype == own[1].dtype for each in used)
    if plain and own[0].shape == own[1].shape and all(each.out_features == heads * width for each in used):
        for k, v in (used, used[::-1]):
            if torch.equal(seen.by(v)[1].view(1, -1, heads, width).transpose(1, 2), own[1]):
                return k, v
    raise KernelUnfit(VALUES)


def _norm(seen: _LayerTrace, k: nn.Linear, hidden: torch.Tensor) -> nn.Module:
    """Return the module between ``hidden`` and what ``k`` reads."""
    read, _ = seen.by(k)
    for module, given, made in seen.ended:
        if given is hidden and made is read and _is_norm(module, hidden.shape[-1]):
            return module
    raise KernelUnfit(NORM)


def _key_norm(seen: _LayerTrace, k: nn.Linear, width: int) -> nn.Module | None:
    """Return the module that reads what ``k`` makes, in whatever shape; None if there is none."""
    place = seen.by(k)[1].untyped_storage().data_ptr()
    readers = [module for module, given, _ in seen.ended if given.untyped_storage().data_ptr() == place]
    if len(readers) > 1 or not all(_is_norm(module, width) for module in readers):
        raise KernelUnfit(KEYS)
    return readers[0] if readers else None


def _is_norm(module: nn.Module, width: int) -> bool:
    return getattr(module, "weight", torch.empty(0)).shape == (width,) and isinstance(eps(module), float)


def _agrees(found: FusedProjection, layer: nn.Module, call: LayerCall, own: Sides, feeds: KVLinears) -> bool:
    """Return whether the kernel makes what the layer makes, or comes as near to what it makes in float32."""
    made = (torch.full_like(own[0], torch.nan), torch.full_like(own[1], torch.nan))
    if found.project(call, call.hidden, made):
        return False
    truth = own if call.hidden.dtype == torch.float32 else _wide(found, layer, call, feeds)
    return all(
        _away(mine, true) <= max(_FACTOR * _away(its, true), _TOLERANCE * max(1.0, float(true.abs().max())))
        for mine, its, true in zip(made, own, truth, strict=True)
    )


def _away(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().max())


def _wide(found: FusedProjection, layer: nn.Module, call: LayerCall, feeds: KVLinears) -> Sides:
    """Return K and V as the layer's own code makes them with the same weights, rows and angles in float32."""
    path = [module for module in (found.norm, found.k, found.v, found.k_norm) if module is not None]
    used = {id(weight) for module in path for weight in module.parameters()}
    weights = {name: weight.float() for name, weight in layer.named_parameters() if id(weight) in used}
    turn = tuple(part.float() for part in call.kwargs["position_embeddings"])
    wider = replace(call, hidden=call.hidden.float(), kwargs=call.kwargs | {"position_embeddings": turn})

    def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (a layer)
        return functional_call(layer, weights, args, kwargs)

    sides = project_kv(run, wider, wider.hidden, feeds)
    assert sides is not None  # noqa: S101  (it has feeds)
    return sides
