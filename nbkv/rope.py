"""Re-rotation: keys that were rotated for one position are rotated for another; values stay as they are.

Rotary embedding (Su et al., arXiv 2104.09864) rotates each pair of key dimensions by an angle proportional to the
position, and rotations compose: ``K(new) = R(new) R(old)^-1 K(old)``, exact up to rounding. Any constant factor on the
rotation (YaRN's attention scaling) is in both and cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nbkv import ops
from nbkv.kv import KV

HALVES, NEIGHBOURS = "halves", "neighbours"


@dataclass(frozen=True, eq=False)
class Rotation:
    """Which key dimensions of a layer are rotary, and the frequency of each pair.

    ``frequencies`` float32 ``[width / 2]`` in radians a position, as the model has them; the pairs are formed inside
    ``[start, start + width)``: dimension ``i`` with ``i + width / 2`` (``halves``) or with ``i + 1`` (``neighbours``).
    """

    frequencies: torch.Tensor
    pairing: str
    start: int

    @property
    def width(self) -> int:
        """Return how many dimensions of a key are rotary."""
        return 2 * self.frequencies.shape[0]

    def angles(self, old: torch.Tensor, new: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine and sine float32 ``[T, width / 2]`` of the rotation from positions ``old`` ``[T]`` to ``new``.

        The angles of both are rounded to float32 first, since the model rounds them so too.
        """
        frequencies = self.frequencies.to(old.device)
        rounded = [(at.to(torch.float32)[:, None] * frequencies).to(torch.float64) for at in (old, new)]
        delta = rounded[1] - rounded[0]
        return delta.cos().to(torch.float32), delta.sin().to(torch.float32)

    def rotate(self, keys: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Return ``keys`` ``[..., T, D]`` rotated by the angles ``[T, width / 2]``, in their own dtype."""
        return ops.turned(keys, cos, sin, start=self.start, neighbours=self.pairing == NEIGHBOURS)

    def place(
        self,
        source: tuple[torch.Tensor, torch.Tensor],
        target: tuple[torch.Tensor, torch.Tensor],
        angles: tuple[torch.Tensor, torch.Tensor],
    ) -> None:
        """Write keys and values ``source`` ``[H, T, D]`` over ``target``, the keys rotated by ``angles`` on the way."""
        ops.rotate_gather(source, target, angles, start=self.start, neighbours=self.pairing == NEIGHBOURS)


@dataclass(frozen=True, eq=False)
class Rope:
    """The rotary geometry of every layer; None where a layer's keys do not depend on position."""

    layers: tuple[Rotation | None, ...]

    def move(self, kv: KV, old: torch.Tensor, new: torch.Tensor) -> KV:
        """Return ``kv`` with the keys of its tokens moved from positions ``old`` ``[T]`` to ``new`` ``[T]``."""
        return KV(self.keys(kv.keys, old, new), kv.values)

    def keys(self, keys: Sequence[torch.Tensor], old: torch.Tensor, new: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the keys of all layers, ``[..., T, D]`` each, moved from positions ``old`` ``[T]`` to ``new``."""
        known: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}
        moved = []
        for rotation, layer in zip(self.layers, keys, strict=True):
            if rotation is None or not layer.numel():
                moved.append(layer)
                continue
            key = id(rotation.frequencies), layer.device
            if key not in known:
                known[key] = rotation.angles(old.to(layer.device), new.to(layer.device))
            moved.append(rotation.rotate(layer, *known[key]))
        return tuple(moved)
