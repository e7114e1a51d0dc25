"""The layer walk: run a model's layers one by one under our control, with everything else left to the model itself.

For the length of one forward the model's layer list is replaced by stand-ins. Each records how its layer was called
(masks, position embeddings, per-layer inputs, whatever the family passes) and returns the hidden states untouched. The
last one, having everything, runs the real layers in order and gives their output to the model, which goes on with its
own final norm and head. So what happens before the first layer and after the last is the model's own code, for any
family whose layers are called once each, in order; the probe checks that, and the self-test checks the logits.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from nbkv.models.capture import Captured

OnLayer = Callable[[int, int], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Layers:
    """Where ``model`` keeps its layers: the list ``name`` of its module ``path``.

    ``returns`` says what each layer returns: ``None`` for a tensor, else the length of its tuple.
    """

    model: nn.Module
    path: str
    name: str
    returns: tuple[int | None, ...]

    @property
    def parent(self) -> nn.Module:
        """Return the module that holds the list."""
        return self.model.get_submodule(self.path)

    @property
    def modules(self) -> nn.ModuleList:
        """Return the model's own list."""
        found = self.parent._modules[self.name]  # noqa: SLF001
        assert isinstance(found, nn.ModuleList)  # noqa: S101
        return found


@dataclass
class LayerCall:
    """How a model called one of its layers: the hidden states it gave, and everything else."""

    hidden: torch.Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Runner = Callable[[Sequence[LayerCall]], torch.Tensor]  # runs the layers of one forward; returns what the head gets


class _LayerStandIn(nn.Module):
    """Stands in for one layer; every attribute it lacks is the layer's own."""

    def __init__(self, layer: nn.Module, returns: int | None, arrive: Callable[[LayerCall], torch.Tensor]) -> None:
        super().__init__()
        self.__dict__["_layer"] = layer  # not a submodule: state_dict and hooks must not see it twice
        self._returns = returns
        self._arrive = arrive

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (the layer's own attribute, whatever it is)
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_layer"], name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  (as a family calls its layers)
        """Take the call as it is: a module's own way there looks for hooks at every token; there are none."""
        hidden = args[0] if args else kwargs.pop("hidden_states")
        hidden = self._arrive(LayerCall(hidden, args[1:], kwargs))
        return hidden if self._returns is None else (hidden, *(None,) * (self._returns - 1))


@dataclass(frozen=True)
class LayerRange:
    """Which layers a forward runs, ``[first, last)``, and with which hidden states it begins (None: the embeddings).

    ``before(index)`` is called when a layer is about to run.
    """

    first: int
    last: int
    hidden: torch.Tensor | None = None
    before: Callable[[int], None] | None = None


class Halted(Exception):
    """A forward ended before the model's head; ``hidden`` ``[..., rows, H]`` is what ``layer`` was or would be given.

    ``known``: that layer made its K/V of it, and went no further.
    """

    def __init__(self, hidden: torch.Tensor, layer: int, *, known: bool = False) -> None:
        """Keep the hidden states."""
        super().__init__("ended between two layers")
        self.hidden, self.layer, self.known = hidden, layer, known


class Walk:
    """Runs the layers of one model; made once, entered for each forward."""

    def __init__(self, layers: Layers) -> None:
        """Prepare a stand-in for every layer of ``layers``."""
        self._name, self._parent = layers.name, layers.parent
        self._own = layers.modules
        self._calls: list[LayerCall] = []
        self._on_layer: OnLayer | None = None
        self._range = LayerRange(0, len(self._own))
        self._runner: Runner | None = None
        self._stand_ins = nn.ModuleList(
            _LayerStandIn(layer, returns, self._arrive)
            for layer, returns in zip(self._own, layers.returns, strict=True)
        )

    @property
    def layers(self) -> nn.ModuleList:
        """Return the model's own layers."""
        return self._own

    @contextmanager
    def stepping(
        self, on_layer: OnLayer | None, layers: LayerRange | None = None, runner: Runner | None = None
    ) -> Iterator[None]:
        """Within the block a forward of the model walks; ``on_layer(index, rows)`` follows each layer and may raise.

        A forward over ``layers`` that end before the last one raises ``Halted``. A ``runner`` is given the calls of all
        layers instead, and runs them itself, through ``layer``.
        """
        self._calls, self._on_layer = [], on_layer
        self._range, self._runner = layers or LayerRange(0, len(self._own)), runner
        self._parent._modules[self._name] = self._stand_ins  # noqa: SLF001  (a swap must not run Module.__setattr__)
        try:
            yield
        finally:
            self._parent._modules[self._name] = self._own  # noqa: SLF001
            self._calls, self._on_layer, self._runner = [], None, None

    def layer(self, index: int, call: LayerCall, hidden: torch.Tensor) -> torch.Tensor:
        """Run the model's own layer ``index`` on ``hidden`` as ``call`` says, and return what comes out."""
        out = self._own[index](hidden, *call.args, **call.kwargs)
        given: torch.Tensor = out[0] if isinstance(out, tuple) else out
        return given

    def _arrive(self, call: LayerCall) -> torch.Tensor:
        self._calls.append(call)
        if len(self._calls) < len(self._own):
            return call.hidden
        return self._run() if self._runner is None else self._runner(self._calls)

    def _run(self) -> torch.Tensor:
        wanted = self._range
        hidden = self._calls[0].hidden if wanted.hidden is None else wanted.hidden
        for index in range(wanted.first, wanted.last):
            call = self._calls[index]
            if wanted.before is not None:
                wanted.before(index)
            given, known = hidden, False
            try:
                hidden = self.layer(index, call, given)
            except Captured as caught:
                traceback.clear_frames(caught.__traceback__)  # else its frames outlive the call
                known = True
            if self._on_layer is not None:
                self._on_layer(index, given.shape[-2])
            if known:
                raise Halted(given, index, known=True)
        if wanted.last < len(self._own):
            raise Halted(hidden, wanted.last)
        return hidden


def find_layers(model: nn.Module, n_layers: int, forward: Callable[[], T]) -> tuple[T, Layers | None]:
    """Return what ``forward`` gives, and the module list whose ``n_layers`` members it calls once each, in order."""
    candidates = [
        (path, name, child)
        for path, parent in model.named_modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == n_layers
    ]
    seen: list[tuple[int, int, int | None]] = []
    handles = []
    for number, (_, _, child) in enumerate(candidates):
        for index, layer in enumerate(child):
            handles.append(layer.register_forward_hook(_recorder(seen, number, index)))
    try:
        given = forward()
    finally:
        for handle in handles:
            handle.remove()
    for number, (path, name, _) in enumerate(candidates):
        calls = [(index, returns) for candidate, index, returns in seen if candidate == number]
        if [index for index, _ in calls] == list(range(n_layers)):
            return given, Layers(model, path, name, tuple(returns for _, returns in calls))
    return given, None


def _recorder(seen: list[tuple[int, int, int | None]], number: int, index: int) -> Callable[..., None]:
    def record(_module: nn.Module, _inputs: object, output: object) -> None:
        seen.append((number, index, len(output) if isinstance(output, tuple) else None))

    return record
