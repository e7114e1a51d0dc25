"""What a chunk's K/V are without a prompt around it, and K/V turned from one place to another."""

from __future__ import annotations

from typing import NamedTuple

import torch

from nbkv.context import Context, Request
from nbkv.families.agents.anchors import Ids
from nbkv.families.prefix.base import held
from nbkv.kv import KV, join
from nbkv.models.work import Work
from nbkv.result import Chunk


class AloneKV(NamedTuple):
    """A copy of the K/V of a chunk encoded alone, the position of its first token there, and whether that ran now."""

    kv: KV
    base: int
    encoded: bool


def alone(chunk: Chunk, request: Request, ctx: Context, work: Work) -> AloneKV:
    """Return the K/V that ``chunk`` has alone; they are computed if the store lacks them.

    An answer that is used as a chunk was decoded in its own prompt: it is encoded behind what prompts begin with.
    """
    sink = chunk.sink if chunk.lineage == "canonical" else front(request, ctx)
    path = (*sink, *chunk.token_ids)
    with held(path, ctx, work) as found:
        return AloneKV(join(found.pieces)[len(sink) :].compact(), len(sink), found.matched < len(path))


def front(request: Request, ctx: Context) -> Ids:
    """Return what answers are encoded behind: the tokenizer's BOS, or the first token of a prompt."""
    return tuple(ctx.codec.bos_ids) or request.ids[:1]


def moved(kv: KV, old: int, new: int, ctx: Context) -> KV:
    """Return ``kv`` with keys that were at positions from ``old`` on turned to those from ``new`` on."""
    assert ctx.adapter.rope is not None  # noqa: S101
    at = torch.arange(kv.length)
    return ctx.adapter.rope.move(kv, at + old, at + new)


def unrotated(kv: KV, start: int, ctx: Context) -> KV:
    """Return ``kv``, keys of positions from ``start`` on, with each key turned back to position 0.

    A difference of keys belongs to the position that both had: only there, or unrotated, it may be added to a key.
    """
    assert ctx.adapter.rope is not None  # noqa: S101
    at = torch.arange(kv.length)
    return ctx.adapter.rope.move(kv, at + start, torch.zeros_like(at))


def rotated(kv: KV, start: int, ctx: Context) -> KV:
    """Return ``kv``, each of whose keys is at position 0, with keys turned to positions from ``start`` on."""
    assert ctx.adapter.rope is not None  # noqa: S101
    at = torch.arange(kv.length)
    return ctx.adapter.rope.move(kv, torch.zeros_like(at), at + start)
