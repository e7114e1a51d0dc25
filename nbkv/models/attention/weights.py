"""The softmax weights of some query rows, a strip of rows at a time: never more of them than a layer's K/V take."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from nbkv.models.attention.layer import Attention
from nbkv.models.attention.masks import Ranges

_LEAST, _MOST = 2**18, 2**24  # weights at a time, whatever the K/V take: 1 MiB, and 64 MiB


def in_strips(
    seen: Attention, mask: torch.Tensor | Ranges | None, rows: torch.Tensor, at_once: int | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield rows at indices ``rows``, ``at_once`` at a time, and their weights, float32 ``[H_q, n, T]``.

    ``at_once`` None: as many as have no more weights than there are numbers in the keys.
    """
    if not len(rows):
        return
    keys = seen.key[0].to(torch.float32).transpose(-1, -2)
    for some in rows.split(at_once or _fitting(seen)):
        yield some, _weights(seen, keys, mask, some)


def _fitting(seen: Attention) -> int:
    room = min(_MOST, max(_LEAST, seen.key.numel()))
    return max(1, room // (seen.query.shape[1] * seen.key.shape[-2]))


def _weights(
    seen: Attention, keys: torch.Tensor, mask: torch.Tensor | Ranges | None, rows: torch.Tensor
) -> torch.Tensor:
    heads, (shared, _, n_keys) = seen.query.shape[1], keys.shape
    picked = seen.query[0].index_select(-2, rows).to(torch.float32)
    scores = (picked.reshape(shared, -1, picked.shape[-1]) @ keys).reshape(heads, len(rows), n_keys).mul_(seen.scale)
    if seen.softcap is not None:
        scores.div_(seen.softcap).tanh_().mul_(seen.softcap)
    if mask is not None:
        shown = mask.of(rows, n_keys) if isinstance(mask, Ranges) else mask[0].index_select(-2, rows)[..., :n_keys]
        scores = scores.masked_fill_(~shown, float("-inf")) if shown.dtype == torch.bool else scores.add_(shown)
    if seen.sinks is None:
        return scores.softmax(dim=-1)
    sink = seen.sinks.to(torch.float32).reshape(-1, 1, 1).expand(-1, len(rows), 1)
    return torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]
