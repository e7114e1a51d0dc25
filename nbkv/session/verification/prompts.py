"""The made-up prompts of the self-check: plain ones that share their first tokens, and ones with chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nbkv.context import Context
from nbkv.models.capabilities import Capabilities
from nbkv.models.probing.prompt import made_up_ids
from nbkv.prompts.prompt import Prompt
from nbkv.result import Chunk

_TOKENS = 48
_BLOCKS = 3  # and at least so many diffusion blocks
_RAGGED = 3  # tokens of a prompt that fill no diffusion block
TAIL = 16  # tokens that differ between prompts which share the rest
_OTHERS = (104_729, 15_485_863)  # more primes: other made-up tokens
_SINK, _TEXT = 1_299_709, 32_452_843
_CHUNKS = {"a": (28, 1), "b": (24, 3), "c": (21, 0), "d": (19, 1)}  # tokens, and those of the sink: none, one, several
_PRIMES = {"a": 6_700_417, "b": 179_424_673, "c": 2_038_074_743, "d": 49_979_687}
_LONG = 1024  # tokens of the chunk of which any strategy with a budget leaves some as they are


@dataclass(frozen=True)
class ChunkPrompt:
    """A prompt with chunks, called ``name``; the chunks called ``missing`` were never encoded."""

    name: str
    prompt: Prompt
    missing: tuple[str, ...] = ()


def plain_prompts(vocabulary: int, known: Capabilities) -> dict[str, tuple[int, ...]]:
    """Return prompts by what a strategy finds of each in its store: nothing, all of it, all but its last tokens."""
    length = min(max(_TOKENS, _BLOCKS * (known.block or 0)) + _RAGGED * (not known.causal), known.context - 1)
    first, tail = made_up_ids(length, vocabulary), min(TAIL, length // 2)
    second, third = ((*first[: length - tail], *made_up_ids(tail, vocabulary, step)) for step in _OTHERS)
    return {"cold": first, "again": first, "branch": second, "back to the first": first, "another branch": third}


def chunk_prompts(ctx: Context) -> tuple[ChunkPrompt, ...]:
    """Return prompts with chunks at other places, in other orders, one twice, one never encoded, and holes between."""
    chunks = {name: _chunk(name, ctx) for name in _CHUNKS}
    a, b, c, d = chunks.values()
    block = ctx.adapter.capabilities.block or 1
    head = -(-3 // block) * block  # what a chunk is encoded behind fits in front of the first one
    first, second, third, fourth = (text(n, ctx, at) for at, n in enumerate((head + block, 9, 5, 7)))
    return (
        _written("chunks in order", [first, a, b, c, fourth]),
        _written("a hole and a missing chunk", [first, b, second, d, third, a, fourth], ("d",)),
        _written("another order, one chunk twice", [a.sink, a, d, b, second, a, c, third]),
    )


def long_prompt(ctx: Context) -> ChunkPrompt:
    """Return a prompt with one long chunk."""
    known = ctx.adapter.capabilities
    length = min(_LONG, min(known.context, known.stable_context) * 3 // 4)
    ids = made_up_ids(length, ctx.adapter.config.vocab_size, _PRIMES["b"])
    chunk = Chunk(name="long", text="", token_ids=ids, sink=text(1, ctx, 0), model=ctx.model)
    return _written("a long chunk", [text(2 * (known.block or 4), ctx, 1), chunk, text(7, ctx, 2)])


def text(n: int, ctx: Context, seed: int) -> tuple[int, ...]:
    """Return ``n`` tokens of text that no chunk has."""
    vocabulary = ctx.adapter.config.vocab_size
    return made_up_ids(n + 31 * seed, vocabulary, _TEXT)[31 * seed :]


def _chunk(name: str, ctx: Context) -> Chunk:
    (tokens, sink), vocabulary = _CHUNKS[name], ctx.adapter.config.vocab_size
    tokens += 2 * (ctx.adapter.capabilities.block or 0)
    ids = made_up_ids(tokens, vocabulary, _PRIMES[name])
    return Chunk(name=name, text="", token_ids=ids, sink=made_up_ids(sink, vocabulary, _SINK), model=ctx.model)


def _written(name: str, parts: Sequence[Chunk | tuple[int, ...]], missing: tuple[str, ...] = ()) -> ChunkPrompt:
    ids: list[int] = []
    chunks = []
    for part in parts:
        if isinstance(part, Chunk):
            chunks.append((part, len(ids), len(ids) + len(part)))
            ids += part.token_ids
        else:
            ids += part
    return ChunkPrompt(name, Prompt(tuple(ids), tuple(chunks)), missing)
