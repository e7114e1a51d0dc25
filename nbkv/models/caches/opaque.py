"""States in an object of a family's own, which its forward takes and returns (xLSTM, RWKV): held and cloned.

The object may be of any make. Its tensors are the states; what is around them, the *shell*, is copied with each clone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig

from nbkv.models.caches.recurrent import NoLayer, StateCache, StateHolder
from nbkv.models.caches.states import Named


class OpaqueStates:
    """Holds the object in the place of all layers."""

    def __init__(self) -> None:
        """Hold nothing."""
        self.held: Any = None
        self.shell: Any = None

    def hold(self, returned: object) -> None:
        """Hold what a forward returned."""
        self.held = returned
        if self.shell is None:
            self.shell = _with(returned, [tensor.new_empty(0) for tensor in _tensors(returned)])

    def states(self) -> Named:
        """Return the tensors in the object, in order; the very ones that the model changes in place."""
        return {("held", number): tensor for number, tensor in enumerate(_tensors(self.held))}

    def put(self, states: Named) -> None:
        """Hold clones of ``states``; none of them is nothing, from which a model begins anew."""
        self.held = _with(self.shell, [state.clone() for state in states.values()]) if states else None

    @property
    def state_bytes(self) -> int:
        """Return the bytes of the tensors."""
        return sum(state.numel() * state.element_size() for state in self.states().values())


class OpaqueCache(StateCache):
    """A cache without K/V whose states are in one object."""

    def __init__(self) -> None:
        """Start empty."""
        self._holder = OpaqueStates()
        super().__init__([NoLayer()])

    @property
    def model_argument(self) -> Any:  # noqa: ANN401  (the family's own)
        """Return the object; None at the beginning."""
        return self._holder.held

    def receive(self, output: Any, name: str) -> None:  # noqa: ANN401  (a ModelOutput)
        """Hold the object that a forward returned."""
        self._holder.hold(output[name])

    @property
    def shell(self) -> Any:  # noqa: ANN401  (as above)
        """Return the object without its tensors."""
        return self._holder.shell

    @shell.setter
    def shell(self, shell: object) -> None:
        self._holder.shell = shell

    @property
    def _stateful(self) -> Sequence[StateHolder]:
        return [self._holder]


def _with(like: object, tensors: list[torch.Tensor]) -> object:
    """Return a copy of ``like`` with other tensors in it."""
    return copy.deepcopy(like, {id(old): new for old, new in zip(_tensors(like), tensors, strict=True)})


def _tensors(within: object) -> Iterator[torch.Tensor]:
    if isinstance(within, torch.Tensor):
        yield within
    elif isinstance(within, (list, tuple)):
        for each in within:
            yield from _tensors(each)
    elif isinstance(within, dict):
        yield from _tensors(list(within.values()))
    elif hasattr(within, "__dict__") and not isinstance(within, (PreTrainedConfig, type)):
        yield from _tensors(vars(within))
