"""Makes chunks: text encoded once behind a sink, kept in the store for any prompt to come."""

from __future__ import annotations

from nbkv.context import Context
from nbkv.errors import BadPrompt
from nbkv.events import Fallback
from nbkv.families.prefix.base import encode
from nbkv.prompts.prompt import opening
from nbkv.result import Chunk
from nbkv.session import sinks
from nbkv.session.sink_choice import better_sink, can_measure


def make_chunk(ctx: Context, text: object, name: str, sink: str) -> Chunk:
    """Return ``text`` as a chunk whose KV is in the store now; ``sink`` is one of ``sinks.KINDS``.

    ``auto`` is what ``sinks`` makes of it, or ``context`` where that brings naive reuse much nearer to full on neutral
    prompts, which is measured once a model. A chunk that ``auto`` encodes behind a primer is encoded behind BOS alone
    as well, one of ``sink="context"`` behind a chat opening: as the first part of a prompt it is a prefix then, and
    exact. Raises ``BadPrompt`` and ``BadOption``.
    """
    if not isinstance(text, str) or not text:
        message = f"a chunk is non-empty text, got {text!r:.60}"
        raise BadPrompt(message)
    kind = better_sink(ctx, "auto", "context", _encoded) if sink == "auto" and can_measure(ctx) else sink
    return _encoded(ctx, text, name, kind)


def _encoded(ctx: Context, text: str, name: str, sink: str) -> Chunk:
    codec, adapter, notes = ctx.codec, ctx.adapter, []
    ids, before = tuple(codec.part(text, first=False)), sinks.sink(sink, codec, adapter, ctx.verdicts)
    ctx.fits(len(before) + len(ids))
    if adapter.capabilities.prefix:
        front = tuple(opening(codec) if sink == "context" else codec.bos_ids)
        if sink in {"auto", "context"} and front and before != front:
            encode((*front, *ids), ctx)
        encode((*before, *ids), ctx)
    else:
        notes.append(f"not encoded: {adapter.capabilities.why_not('prefix')}")
        ctx.tell(Fallback, why=notes[-1])
    return Chunk(name=name, text=text, token_ids=ids, sink=before, model=adapter.fingerprint, notes=tuple(notes))
