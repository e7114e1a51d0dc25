"""Makes chunks: text encoded once behind a sink, kept in the store for any prompt to come."""

from __future__ import annotations

from dataclasses import replace

from nbkv.context import Context
from nbkv.errors import BadOption, BadPrompt
from nbkv.events import Fallback
from nbkv.families.prefix.base import encode
from nbkv.prompts.prompt import opening
from nbkv.result import Chunk
from nbkv.scalars import kind_of
from nbkv.session.encoding import sinks
from nbkv.session.encoding.sink_choice import better_sink


def make_chunk(ctx: Context, text: object, name: str, sink: str) -> Chunk:
    """Return ``text`` as a chunk whose KV is in the store now; ``sink`` is one of ``sinks.KINDS``.

    ``auto`` is what ``sinks`` makes of it, or ``context`` where that brings naive reuse much nearer to full on neutral
    prompts, which is measured once a model. A chunk that ``auto`` encodes behind a primer is encoded behind BOS alone
    as well, one of ``sink="context"`` behind a chat opening: as the first part of a prompt it is a prefix then, and
    exact. Raises ``BadPrompt`` and ``BadOption``.
    """
    kind = settled_sink(ctx, sink)
    made = tokenised_chunk(ctx, text, name, kind)
    if ctx.adapter.capabilities.prefix:
        return replace(made, notes=tuple(encode_chunk(made, kind, ctx)))
    note = f"not encoded: {ctx.adapter.capabilities.why_not('prefix')}"
    ctx.tell(Fallback, why=note)
    return replace(made, notes=(note,))


def check_name(name: object) -> None:
    """Raise ``BadOption`` unless ``name`` can be a chunk's: text, or None for one that is found for it."""
    if not isinstance(name, str | None):
        message = f"the name of a chunk is {kind_of(name)} (accepted: text)"
        raise BadOption(message)


def settled_sink(ctx: Context, sink: str) -> str:
    """Return the kind of sink that ``auto`` stands for with this model: ``auto`` itself or ``context``."""
    return better_sink(ctx, "auto", "context", _encoded) if sink == "auto" else sink


def _encoded(ctx: Context, text: str, name: str, sink: str) -> Chunk:
    made = tokenised_chunk(ctx, text, name, sink)
    encode_chunk(made, sink, ctx)
    return made


def tokenised_chunk(ctx: Context, text: object, name: str, sink: str) -> Chunk:
    """Return ``text`` as a chunk of which the store need not have anything; raises as ``make_chunk`` does."""
    if not isinstance(text, str) or not text:
        message = f"a chunk is non-empty text, not {'empty' if text == '' else kind_of(text)}"
        raise BadPrompt(message)
    codec, adapter = ctx.codec, ctx.adapter
    ids, before = tuple(codec.part(text, first=False)), sinks.sink(sink, codec, adapter, ctx.verdicts)
    if not ids:
        message = f"a chunk is text of at least one token, and the tokenizer makes none of {text!r:.60}"
        raise BadPrompt(message)
    ctx.fits(len(before) + len(ids))
    return Chunk(name=str(name), text=str(text), token_ids=ids, sink=before, model=adapter.fingerprint)


def encode_chunk(chunk: Chunk, sink: str, ctx: Context) -> list[str]:
    """Have the store hold the KV of ``chunk``, made with ``sink``; also as a first part, where that differs.

    Return what is to be said of it.
    """
    notes: list[str] = []
    front = tuple(opening(ctx.codec) if sink == "context" else ctx.codec.bos_ids)
    if sink in {"auto", "context"} and front and chunk.sink != front:
        notes += encode((*front, *chunk.token_ids), ctx)
    return [*notes, *encode((*chunk.sink, *chunk.token_ids), ctx)]
