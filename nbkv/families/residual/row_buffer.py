"""Memory for rows that are added at the end, read in spans and cut off: residuals, latents, K and V on the host."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from nbkv.kv import allocate

BLOCK = 64  # rows that are allocated at a time: no row is ever moved to make room for others
_GROUP = 64  # values that share one scale; XQuant quantises in groups too


@dataclass(eq=False)
class RowBuffer:
    """Rows ``[..., n, d]`` in segments; ``place`` is a device for all of them (None: where they come from)."""

    place: torch.device | None = None
    length: int = 0
    segments: list[torch.Tensor] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated."""
        return sum(segment.numel() * segment.element_size() for segment in self.segments)

    def add(self, rows: torch.Tensor) -> None:
        """Append ``rows`` ``[..., n, d]``."""
        room = self._capacity - self.length
        if rows.shape[-2] > room:
            self.segments.append(self._segment(rows, rows.shape[-2] - room))
        done = 0
        for begin, segment in self._spans():
            at, left = self.length - begin, rows.shape[-2] - done
            fits = min(segment.shape[-2] - at, left)
            if at >= 0 and fits > 0:
                segment[..., at : at + fits, :] = rows[..., done : done + fits, :]
                self.length, done = self.length + fits, done + fits

    def read(self, start: int, stop: int) -> list[torch.Tensor]:
        """Return the rows ``[start, stop)`` as views, in pieces."""
        pieces = []
        for begin, segment in self._spans():
            first, last = max(start - begin, 0), min(stop - begin, segment.shape[-2])
            if first < last:
                pieces.append(segment[..., first:last, :])
        return pieces

    def joined(self, start: int, stop: int) -> torch.Tensor:
        """Return the rows ``[start, stop)`` as one tensor."""
        pieces = self.read(start, stop)
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-2)

    def truncate(self, length: int) -> None:
        """Forget the rows from ``length`` on, and give back segments that hold nothing any more."""
        self.segments = [segment for begin, segment in self._spans() if begin < length]
        self.length = min(self.length, length)

    def add_all(self, other: RowBuffer) -> None:
        """Append the rows of ``other``."""
        for piece in other.read(0, other.length):
            self.add(piece)

    def copy(self) -> RowBuffer:
        """Return a deep copy."""
        made = RowBuffer(self.place)
        made.add_all(self)
        return made

    @property
    def _capacity(self) -> int:
        return sum(segment.shape[-2] for segment in self.segments)

    def _spans(self) -> list[tuple[int, torch.Tensor]]:
        begins, spans = 0, []
        for segment in self.segments:
            spans.append((begins, segment))
            begins += segment.shape[-2]
        return spans

    def _segment(self, like: torch.Tensor, rows: int) -> torch.Tensor:
        shape = (*like.shape[:-2], -(-rows // BLOCK) * BLOCK, like.shape[-1])
        place = self.place or like.device
        pinned = place.type == "cpu" and like.device.type == "cuda"  # copies from there need not be waited for
        return allocate(*shape, dtype=like.dtype, device=place, pin_memory=pinned)


@dataclass(eq=False)
class QuantisedRows:
    """Rows held in ``bits`` bits a value, with a least value and a step for each group of neighbours (after XQuant)."""

    bits: int
    codes: RowBuffer = field(default_factory=RowBuffer)
    steps: RowBuffer = field(default_factory=RowBuffer)
    dtype: torch.dtype = torch.float32

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated."""
        return self.codes.nbytes + self.steps.nbytes

    def add(self, rows: torch.Tensor) -> None:
        """Quantise and append ``rows`` ``[..., n, d]``."""
        self.dtype = rows.dtype
        grouped = rows.float().unflatten(-1, (-1, group(rows.shape[-1])))
        least, most = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
        step = ((most - least) / (2**self.bits - 1)).clamp(min=torch.finfo(torch.float32).tiny)
        codes = ((grouped - least) / step).round().to(torch.uint8).flatten(-2)
        self.codes.add(codes if self.bits > 4 else codes[..., ::2] | codes[..., 1::2] << 4)  # noqa: PLR2004
        self.steps.add(torch.cat([least, step], dim=-1).flatten(-2))

    def joined(self, start: int, stop: int) -> torch.Tensor:
        """Return the rows ``[start, stop)``, dequantised."""
        codes, steps = self.codes.joined(start, stop), self.steps.joined(start, stop)
        if self.bits <= 4:  # noqa: PLR2004
            codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(-2)
        least, step = steps.unflatten(-1, (-1, 2)).split(1, dim=-1)
        grouped = codes.float().unflatten(-1, (least.shape[-2], -1))
        rows: torch.Tensor = (grouped * step + least).flatten(-2).to(self.dtype)
        return rows

    def truncate(self, length: int) -> None:
        """Forget the rows from ``length`` on."""
        self.codes.truncate(length)
        self.steps.truncate(length)

    def copy(self) -> QuantisedRows:
        """Return a deep copy."""
        return QuantisedRows(self.bits, self.codes.copy(), self.steps.copy(), self.dtype)


def group(width: int) -> int:
    """Return how many of ``width`` values share a scale."""
    return math.gcd(width, _GROUP)


def quantised_bytes(width: int, bits: int) -> int:
    """Return the bytes of one row of ``width`` values in ``bits`` bits, scales included."""
    return width * bits // 8 + 8 * (width // group(width))
