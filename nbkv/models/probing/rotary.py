"""Learns from a model how its keys depend on position, and proves it: chunk reuse rests on that.

A token alone in its context attends to itself only, so its hidden states do not depend on its position: if the
model is rotary, its cached keys at two positions differ by the rotation alone, in every layer. So one pass over single
tokens at several positions shows which key dimensions rotate, how they are paired and which frequencies fit, without
knowing the model's class; where nothing fits, the model is not relocated and the reason is kept.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from torch import nn

from nbkv.fidelity import scaled_error
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.capabilities import config_value
from nbkv.models.identity.record import RotaryPlace
from nbkv.rope import HALVES, NEIGHBOURS, Rope, Rotation

_IDS = 3  # tokens probed
_FAR = 4096  # the farthest position probed, or the model's last
_USUAL_THETA = 10000.0


def learn(adapter: ModelAdapter, ids: torch.Tensor, limit: float) -> tuple[tuple[RotaryPlace | None, ...] | None, str]:
    """Return each layer's place, or None and why the model's keys cannot be moved.

    ``limit`` is the scaled error allowed, ``ids`` some token ids.
    """
    if why := _ruled_out(adapter):
        return None, why
    positions = probed_positions(adapter, _FAR)
    try:
        keys, values = alone(adapter, ids[:_IDS], positions)
    except Exception as error:  # noqa: BLE001  (a family may refuse in any way; the reason is kept and told)
        return None, f"it cannot be run on single tokens at given positions ({type(error).__name__})"
    if any(side.numel() and scaled_error(side, side[:1].expand_as(side)) > limit for side in values):
        return None, "its cached values depend on position (a latent cache keeps its rotary part there)"
    places: list[RotaryPlace | None] = []
    for index, mine in enumerate(keys):
        found, place = _place(adapter.model, mine, positions.to(mine.device), limit)
        if not found:
            return None, f"no rotation explains how the keys of layer {index} depend on position"
        places.append(place)
    return tuple(places), ""


def build(model: nn.Module, places: tuple[RotaryPlace | None, ...]) -> Rope:
    """Return the geometry of ``model`` at the ``places`` that ``learn`` found."""
    made: dict[RotaryPlace, Rotation] = {}
    for place in places:
        if place is not None and place not in made:
            made[place] = Rotation(_frequencies(model, place.source, place.width), place.pairing, place.start)
    return Rope(tuple(None if place is None else made[place] for place in places))


def probed_positions(adapter: ModelAdapter, far: int) -> torch.Tensor:
    """Return positions ``[P]`` from 0 up to ``far`` or the model's last, near ones and far ones."""
    last = min(far, adapter.capabilities.stable_context) - 1
    return torch.tensor([0, 1, min(7, last), min(101, last), last // 2, last], device=adapter.device)


def alone(
    adapter: ModelAdapter, ids: torch.Tensor, positions: torch.Tensor
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return keys and values ``[P, n, H, D]`` of each layer: tokens ``ids`` ``[n]``, each alone at each position."""
    cache = GrowingCache()
    rows = ids.repeat(len(positions))[:, None]
    where = positions.repeat_interleave(len(ids))[:, None]
    with torch.no_grad(), adapter.evaluating():
        adapter.model(input_ids=rows, position_ids=where, past_key_values=cache, use_cache=True)
    shape = (len(positions), len(ids))
    sides = [(layer.keys, layer.values) for layer in cache.layers]
    none = torch.empty(*shape, 0, 0)
    return (
        [none if keys is None else keys[:, :, 0].reshape(*shape, *keys.shape[1:2], -1) for keys, _ in sides],
        [none if values is None else values[:, :, 0].reshape(*shape, *values.shape[1:2], -1) for _, values in sides],
    )


def _ruled_out(adapter: ModelAdapter) -> str:
    capabilities = adapter.capabilities
    if not capabilities.prefix:
        return capabilities.why_not("prefix")
    if capabilities.states:
        return "its recurrent layers sum up all tokens before: K/V cannot be used behind others"
    if capabilities.positions != "rotary":
        kind = {"absolute": "learned positions", "alibi": "ALiBi positions"}.get(capabilities.positions, "no positions")
        return f"it has {kind}, not rotary ones: K/V cannot be moved to another position"
    return "" if adapter.tells_positions else "its positions cannot be given explicitly"


def _place(
    model: nn.Module, keys: torch.Tensor, positions: torch.Tensor, limit: float
) -> tuple[bool, RotaryPlace | None]:
    """Return whether the dependence of ``keys`` ``[P, n, H, D]`` on ``positions`` is explained, and by what."""
    moving = (keys != keys[:1]).flatten(0, 2).any(dim=0) if keys.numel() else torch.zeros(1, dtype=torch.bool)
    if not moving.any():
        return True, None
    dims = moving.nonzero().flatten()
    first, last = int(dims[0]), int(dims[-1])
    best: tuple[float, RotaryPlace | None] = (limit, None)
    for source, width in _sources(model, last - first + 1):
        for start, pairing in product({0, first}, (HALVES, NEIGHBOURS)):
            if not start + width > last or start + width > keys.shape[-1]:
                continue
            rotation = Rotation(_frequencies(model, source, width), pairing, start)
            at_zero = keys[0][:, :, None].expand(-1, -1, len(positions), -1)
            rotated = rotation.rotate(at_zero, *rotation.angles(torch.zeros_like(positions), positions))
            error = scaled_error(rotated, keys.permute(1, 2, 0, 3))
            best = min(best, (error, RotaryPlace(source, pairing, start, width)), key=lambda pair: pair[0])
    return best[1] is not None, best[1]


def _sources(model: nn.Module, width: int) -> list[tuple[str, int]]:
    """Return where frequencies may be found in ``model`` and for how many dimensions; a minus rotates the other way."""
    buffers = [
        (name, 2 * buffer.numel())
        for name, buffer in model.named_buffers()
        if name.endswith("inv_freq") and buffer.device.type != "meta"
    ]
    config: Any = getattr(model, "config", None)
    parameters = config_value(config.get_text_config(), "rope_parameters") or {} if config is not None else {}
    thetas = {_USUAL_THETA, float(parameters.get("rope_theta") or _USUAL_THETA)}
    sources = [*buffers, *((f"theta:{theta}", width + width % 2) for theta in sorted(thetas))]
    return [*sources, *((f"-{source}", wide) for source, wide in sources)]


def _frequencies(model: nn.Module, source: str, width: int) -> torch.Tensor:
    if source.startswith("-"):
        return -_frequencies(model, source[1:], width)
    if source.startswith("theta:"):
        exponents = torch.arange(0, width, 2, dtype=torch.float32) / width
        return 1.0 / float(source.removeprefix("theta:")) ** exponents
    return model.get_buffer(source).detach().to(torch.float32).flatten()
