"""Offsets of a text at a place, approximated from those of the nearest anchors there.

KVCOMM (arXiv 2510.12872) adds to a text's own K/V the mean of its anchors' offsets, weighted by a softmax over minus
the distance of embeddings. Its released code takes plain norms: over a whole text they are so large that the softmax
puts all weight on one anchor, over one token so small that it is even. Here a distance is relative: 0 for the same
tokens, about 1 for tokens that have nothing in common, whatever the model's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import torch

from nbkv.families.agents.anchors import Anchor, Ids
from nbkv.kv import KV

_COVER = {"token": 0.5, "position": 1.0}  # the least share of a text that an anchor is as long as
ALIGNMENTS = tuple(_COVER)
LEAST = 2  # anchors without which nothing is approximated, as the paper has it
_ROUNDING = 16  # units in the last place, of rotating keys there and back
_LEAST = 0.01  # an anchor that has no more weight than this at any token is left out: it would cost as much as others


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For ``T`` tokens, one token of each of ``M`` anchors: ``rows`` ``[T, M]``, with ``weights`` ``[T, M]``.

    ``weights`` sum up to 1 for each token. ``same``: there is one anchor, of the very text.
    """

    anchors: tuple[Anchor, ...]
    rows: torch.Tensor
    weights: torch.Tensor
    same: bool = False

    @property
    def shares(self) -> torch.Tensor:
        """Return the weights of the anchors for the whole text, ``[M]``: the mean over its tokens."""
        return self.weights.mean(dim=0)

    @property
    def entropy(self) -> float:
        """Return the mean entropy of a token's weights in bits: 0 if one anchor has all, ``log2 M`` if all are even.

        Of the text's mean weights it would be nearly ``log2 M`` for all but repeated texts.
        """
        return max(0.0, -float(torch.xlogy(self.weights, self.weights).sum(dim=1).mean())) / log(2)


@dataclass(frozen=True)
class Alignment:
    """Which token of an anchor a token is likened to, and how much weight the distance of both takes away.

    ``how="position"``, the paper's, is the token at the same position. ``"token"`` is the one that is nearest by
    distance over ``temperature`` and by the logarithm of its position: offsets fade as more of the text's own tokens
    stand before.
    """

    how: str
    temperature: float

    def long_enough(self, length: int, anchors: Sequence[Anchor]) -> list[Anchor]:
        """Return those of ``anchors`` that are long enough for a text of ``length`` tokens."""
        return [anchor for anchor in anchors if len(anchor.ids) >= _COVER[self.how] * length]

    def neighbours(self, marks: torch.Tensor, ids: Ids, anchors: Sequence[Anchor]) -> Neighbours:
        """Return the token of each of ``anchors`` that each token of a text ``ids`` with ``marks`` is likened to.

        An anchor of the very same ids takes all weight.
        """
        same = [anchor for anchor in anchors if anchor.ids == ids]
        if same:
            rows = torch.arange(len(ids), device=marks.device)[:, None]
            return Neighbours((same[-1],), rows, torch.ones(len(ids), 1, device=marks.device), same=True)
        found = [self._nearest(marks, anchor.marks.to(marks.device)) for anchor in anchors]
        rows = torch.stack([at for at, _ in found], dim=1)
        costs = torch.stack([cost for _, cost in found], dim=1)
        return Neighbours(tuple(anchors), rows, torch.softmax(-costs, dim=1))

    def _nearest(self, marks: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return for each token the row of an anchor that it is likened to, and what that costs."""
        n = torch.arange(len(marks), device=marks.device)
        if self.how == "position":
            rows = n.clamp(max=len(other) - 1)
            apart = (marks - other[rows]).square().sum(dim=1)
            return rows, (apart / _scale(marks, other[rows])).sqrt() / self.temperature
        apart = torch.cdist(marks, other).square() / _scale(marks[:, None], other[None])
        far = torch.log1p(n[:, None].float()) - torch.log1p(torch.arange(len(other), device=marks.device).float())
        cost, rows = (apart.sqrt() / self.temperature + far.abs()).min(dim=1)
        return rows, cost


def offset(near: Neighbours, factors: torch.Tensor) -> KV:
    """Return the offsets ``[H, T, D]`` approximated for a text, times ``factors`` ``[2, L]`` of keys and values.

    Those of the very text are taken whole.
    """
    factors = torch.ones_like(factors) if near.same else factors
    heavy = [at for at in range(len(near.anchors)) if float(near.weights[:, at].max()) > _LEAST]
    weights = near.weights[:, heavy] / near.weights[:, heavy].sum(dim=1, keepdim=True)
    chosen = [(near.anchors[at].kv, near.rows[:, at], weights[:, n, None]) for n, at in enumerate(heavy)]

    def summed(side: int, layer: int) -> torch.Tensor:
        added: torch.Tensor | None = None
        for kv, rows, share in chosen:
            held = (kv.keys, kv.values)[side][layer]
            part = held[:, rows.to(held.device)] * (share * factors[side, layer].to(share)).to(held)
            added = part if added is None else added.add_(part)
        assert added is not None  # noqa: S101
        return added

    layers = range(len(chosen[0][0].keys))
    return KV(tuple(summed(0, layer) for layer in layers), tuple(summed(1, layer) for layer in layers))


def followed(near: Neighbours, behind: Ids) -> KV | None:
    """Return the K/V of the first tokens of the text ``behind`` that stood behind anchors too; None if there are none.

    They are the mean over those anchors that have most of it, weighted by ``shares``. Base K/V, which the paper adds to
    the mean of offsets, are those of the same tokens for all anchors, and cancel.
    """
    common = [anchor.shared_behind(behind) for anchor in near.anchors]
    length = max(common)
    if not length:
        return None
    which = [at for at, n in enumerate(common) if n == length]
    shares = near.shares[which] / near.shares[which].sum().clamp(min=1e-30)
    held = [near.anchors[at].behind[:length] for at in which]

    def mean(sides: list[tuple[torch.Tensor, ...]], layer: int) -> torch.Tensor:
        each = [side[layer] * share.to(side[layer]) for side, share in zip(sides, shares, strict=True)]
        return torch.stack(each).sum(dim=0)

    layers = range(len(held[0].keys))
    keys, values = [kv.keys for kv in held], [kv.values for kv in held]
    return KV(tuple(mean(keys, layer) for layer in layers), tuple(mean(values, layer) for layer in layers))


def difference(one: KV, other: KV) -> KV:
    """Return ``one - other``, layer by layer."""
    return KV(
        tuple(a - b for a, b in zip(one.keys, other.keys, strict=True)),
        tuple(a - b for a, b in zip(one.values, other.values, strict=True)),
    )


def beyond_rounding(offsets: KV, own: KV) -> KV:
    """Return ``offsets`` with zeros for layers in which they are mere rounding of the K/V they belong to, ``own``.

    So they are in the first layer, whose K/V depend on the token alone, and everywhere for a text that stands first.
    """

    def told(part: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        noise = _ROUNDING * torch.finfo(whole.dtype).eps * float(whole.float().norm())
        return part if float(part.float().norm()) > noise else torch.zeros_like(part)

    return KV(
        tuple(map(told, offsets.keys, own.keys)),
        tuple(map(told, offsets.values, own.values)),
    )


def total(one: KV, other: KV) -> KV:
    """Return ``one + other``, layer by layer."""
    return KV(
        tuple(a + b for a, b in zip(one.keys, other.keys, strict=True)),
        tuple(a + b for a, b in zip(one.values, other.values, strict=True)),
    )


def comparison(true: KV, guessed: KV) -> torch.Tensor:
    """Return sums float64 ``[2, L, 3]`` over keys and values: guessed times true, guessed squared, true squared."""

    def sums(own: torch.Tensor, guess: torch.Tensor) -> list[torch.Tensor]:
        mine, other = own.to("cpu", torch.float64), guess.to("cpu", torch.float64)
        return [(mine * other).sum(), other.square().sum(), mine.square().sum()]

    sides = [(true.keys, guessed.keys), (true.values, guessed.values)]
    return torch.tensor([[sums(*pair) for pair in zip(*side, strict=True)] for side in sides], dtype=torch.float64)


def trust(anchors: Sequence[Anchor]) -> torch.Tensor:
    """Return how much of an approximated offset to add, float64 ``[2, L]`` between 0 and 1, for keys and values.

    The factor that would have been best, by least squares, for the ``anchors`` when they were new and the ones before
    them were all that was known. Offsets that one text does not share with another are noise in the mean: added whole,
    as the paper does, they take values of deep layers further from what they are than nothing would. 1 where nothing
    was compared yet.
    """
    known = [anchor.heldout for anchor in anchors if anchor.heldout is not None]
    if not known:
        layers = len(anchors[0].kv.keys)
        return torch.ones(2, layers, dtype=torch.float64)
    agreed, guessed, _ = torch.stack(known).sum(dim=0).unbind(dim=-1)
    return (agreed / guessed.clamp(min=1e-30)).clamp(0.0, 1.0)


def explained(anchors: Sequence[Anchor]) -> float | None:
    """Return which share of the offsets' squared norm approximation gets right, leaving each anchor out in turn.

    Of keys and of values, then the mean of both. An anchor's offsets are those that the others approximate, times the
    factors (``trust``) that are best for the others: nothing of its own is in what it is compared with. 0: as far off
    as no offsets at all; below 0: further off; 1 where there are none. None: fewer than two anchors were compared.
    """
    known = [anchor.heldout for anchor in anchors if anchor.heldout is not None]
    if len(known) < LEAST:
        return None
    own = torch.stack(known)
    agreed, guessed, true = own.unbind(dim=-1)
    if not true.any():
        return 1.0
    others = own.sum(dim=0) - own
    factor = (others[..., 0] / others[..., 1].clamp(min=1e-30)).clamp(0.0, 1.0)
    gained = (2 * factor * agreed - factor.square() * guessed).sum(dim=(0, 2))
    return float((gained / true.sum(dim=(0, 2)).clamp(min=1e-30)).mean())


def _scale(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of two tokens that have nothing in common."""
    return (one.square().sum(dim=-1) + other.square().sum(dim=-1)).clamp(min=1e-30)
