"""A cache for models whose layers keep states: sums of fixed size, changed in place, that no token can be cut off.

Attention layers of such a model keep K/V per token as everywhere else. States hang at positions: a *checkpoint* is a
clone of every layer's states after a given number of tokens, and only there can a sequence be continued.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from transformers import cache_utils
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer

from nbkv.kv import KV
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.caches.growing_layer import GrowingLayer
from nbkv.models.caches.states import LayerStates, Named
from nbkv.show.units import plural

_SIDES = ("conv_states", "recurrent_states")
_Dummy: Any = getattr(cache_utils, "DummyLayer", LinearAttentionLayer)  # older ones have none


class _NoKV:
    """What a layer without K/V of its own says to a cache that asks about them."""

    keys = values = None
    length = 0
    is_initialized = False
    reserve = 0
    nbytes = 0

    def fit(self) -> None:
        """Give back nothing."""


class NoLayer(_NoKV, _Dummy):  # type: ignore[misc]  # as above
    """Stands in the place of a layer that keeps nothing at all."""


class StateLayer(LinearAttentionLayer):
    """The states of one layer, which can be read, put and dropped."""

    def states(self) -> Named:
        """Return the states there are, by kind and number; the very tensors that the model changes in place."""
        found = ((side, index, state) for side in _SIDES for index, state in getattr(self, side).items())
        return {(side, index): state for side, index, state in found if state is not None}

    def put(self, states: Named) -> None:
        """Go on from clones of ``states``; none of them is an untouched layer."""
        for side in _SIDES:
            for index in range(self.number_of_states):
                state = states.get((side, index))
                getattr(self, side)[index] = None if state is None else state.clone()
                getattr(self, f"is_{side}_initialized")[index] = state is not None
        for index in range(self.number_of_states):
            self.has_previous_state[index] = any(number == index for _, number in states)
            if (state := states.get((_SIDES[0], index))) is not None:
                self.conv_kernel_size[index] = state.shape[-1]
                self.dtype, self.device = state.dtype, state.device  # type: ignore[assignment]  # None at first

    @property
    def state_bytes(self) -> int:
        """Return the bytes of the states."""
        return sum(state.numel() * state.element_size() for state in self.states().values())


class PureStateLayer(_NoKV, StateLayer):
    """A layer that keeps states and no K/V."""


class MixedLayer(StateLayer, GrowingLayer):  # type: ignore[misc, override]  # as transformers' own layers of both kinds
    """A layer that keeps states as well as K/V, as those with attention beside a recurrence do."""

    def __init__(self, number_of_states: int = 1, reserve: int = 0) -> None:
        """Start with neither; the first write of K/V allocates room for at least ``reserve`` tokens."""
        GrowingLayer.__init__(self, reserve)
        StateLayer.__init__(self, number_of_states=number_of_states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  (transformers calls it both ways)
        """Prepare K/V if called with keys and values, as attention does, else the states that are named."""
        if args:
            GrowingLayer.lazy_initialization(self, *args)
        else:
            StateLayer.lazy_initialization(self, **kwargs)

    def reset(self) -> None:
        """Forget both."""
        StateLayer.reset(self)
        GrowingLayer.reset(self)


CachedLayer = GrowingLayer | PureStateLayer | MixedLayer | NoLayer


class StateHolder(Protocol):
    """Holds states that can be read and put: a layer, or an object in the place of all layers."""

    @property
    def state_bytes(self) -> int:
        """Return the bytes of the states."""

    def states(self) -> Named:
        """Return the states there are, by kind and number; the very tensors that the model changes in place."""

    def put(self, states: Named) -> None:
        """Go on from clones of ``states``; none of them is an untouched layer."""


class StateCache(GrowingCache):
    """K/V in growing buffers, and the states after ``length`` tokens; a pass that was broken off leaves none.

    What a store does with it is what it does with a ``GrowingCache``: states are no part of ``read`` and ``write``.
    """

    layers: list[CachedLayer]  # type: ignore[assignment]  # the parent's are all growing

    shell: Any = None  # what a family has around its states; nothing, in a cache of layers

    def __init__(self, layers: Sequence[CachedLayer], reserve: int = 0) -> None:
        """Start empty, with ``layers`` such as ``ours`` gives."""
        self._reserve, self._at, self._whole = reserve, 0, True
        Cache.__init__(self, layers=list(layers))

    @property
    def length(self) -> int:
        """Return the number of tokens that every layer has taken in."""
        return self._at

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated by all layers, states included."""
        return super().nbytes + self.state_bytes

    @property
    def state_bytes(self) -> int:
        """Return the bytes of the present states."""
        return sum(layer.state_bytes for layer in self._stateful)

    @contextmanager
    def advancing(self, tokens: int) -> Iterator[None]:
        """Within the block the layers take in ``tokens`` tokens; if it is left early, the states are dropped."""
        if not self._whole:
            message = f"there are no states to go on from after {plural(self._at, 'token')}"
            raise ValueError(message)
        self._whole = False
        try:
            yield
            self._at, self._whole = self._at + tokens, True
        finally:
            if not self._whole:
                self.truncate(self._at)

    def checkpoint(self) -> LayerStates | None:
        """Return a clone of the present states; None if they were dropped or nothing was taken in."""
        if not self._whole or not self._at:
            return None
        clones = ({name: state.clone() for name, state in layer.states().items()} for layer in self._stateful)
        return LayerStates(self._at, tuple(clones), self.shell)

    def resume(self, states: LayerStates | None) -> None:
        """Go on with clones of ``states`` (None: from the beginning); the K/V must reach as far as ``states.at``."""
        self.truncate(0 if states is None else states.at)
        self._whole, self._at = True, 0 if states is None else states.at
        if states is not None:
            self.shell = states.shell
        for number, layer in enumerate(self._stateful):
            layer.put({} if states is None else states.layers[number])

    def placed(self, layers: Sequence[Named], at: int, devices: Sequence[str]) -> LayerStates:
        """Return states of this cache's layers after ``at`` tokens, which come from elsewhere, where those layers are.

        ``devices`` are one for each layer of the model. Raises ``ValueError`` where there are more or fewer states.
        """
        where = [device for layer, device in zip(self.layers, devices, strict=False) if isinstance(layer, StateLayer)]
        each = zip(layers, where, strict=True)
        moved = tuple({name: state.to(device) for name, state in named.items()} for named, device in each)
        return LayerStates(at, moved)

    def release(self) -> LayerStates | None:
        """Return the present states and keep none; nothing is copied."""
        given = None
        if self._whole and self._at:
            given = LayerStates(self._at, tuple(layer.states() for layer in self._stateful), self.shell)
        self._drop()
        return given

    def truncate(self, length: int) -> None:
        """Keep the K/V of the first ``length`` tokens, and no states: they cannot be cut."""
        super().truncate(length)
        self._at = min(self._at, length)
        self._drop()

    def write(self, start: int, kv: KV) -> None:
        """Put ``kv`` at ``start``; the states do not know of it."""
        super().write(start, kv)
        self._at = max(self._at, start + kv.length)
        self._drop()

    @property
    def _stateful(self) -> Sequence[StateHolder]:
        return [layer for layer in self.layers if isinstance(layer, StateLayer)]

    def _drop(self) -> None:
        self._whole = not self._at
        for layer in self._stateful:
            layer.put({})


def ours(family: Cache, reserve: int = 0) -> list[CachedLayer]:
    """Return a layer of ours for each of ``family``'s; raises ``TypeError`` where there is none."""
    return [_ours(layer, reserve) for layer in family.layers]


def _ours(layer: Any, reserve: int) -> CachedLayer:  # noqa: ANN401  (transformers' layers share no typed parent)
    attends = isinstance(layer, DynamicLayer)
    if isinstance(layer, LinearAttentionLayer):
        states = layer.number_of_states
        return MixedLayer(states, reserve) if attends else PureStateLayer(states)
    if type(layer).__name__ in {"DynamicLayer", "DynamicSlidingWindowLayer"}:
        return GrowingLayer(reserve)
    if type(layer).__name__ == "DummyLayer":
        return NoLayer()
    message = f"its layers keep something else than K, V and states ({type(layer).__name__})"
    raise TypeError(message)
