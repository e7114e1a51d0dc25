"""What a chunk is encoded behind: its sink, whose KV is dropped, so that no row of the chunk looks like a beginning.

Rows right behind BOS carry K/V far from what they are in the middle of a prompt, and draw attention that belongs
elsewhere. A few neutral words between BOS and the chunk (a *primer*) cure that; how many a model needs is measured on
its own keys, without labels, and remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nbkv.errors import BadOption, BadPrompt
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.identity.verdicts import Verdicts
from nbkv.models.sampling import eos_ids
from nbkv.prompts.prompt import opening
from nbkv.prompts.tokenizer import Codec

KINDS = ("auto", "bos", "none", "dummy", "primer", "context")
_DUMMIES = 4  # EPIC's LegoLink-0 (arXiv 2410.15332) puts this many tokens in front
_HEAD, _BODY = slice(0, 4), slice(8, 32)  # rows of a chunk that are compared
_FLAT = 1.5  # the head's relative error may be this many times the body's
_WORTH = 0.75  # a primer must bring it down to this share of what it is behind BOS alone
_NEAR = 1.1  # and a shorter one that is nearly as good as the best is enough

# Public, neutral, declares nothing; the words are plain enough for small vocabularies.
PRIMER = (
    "It rained in the morning.",
    "The wind blew all day.",
    "The street was quiet at night.",
    "The birds sat near the gate.",
    "The river was high at noon.",
    "The market was open in the evening.",
    "Nobody was in the garden.",
    "The children sang for an hour.",
)
# Two passages as retrieval hands them out, written for this purpose: what comes before a chunk in a real prompt.
PASSAGES = (
    "Harbour Street\nHarbour Street is a short street in the old part of the town. It was laid out in the nineteenth "
    "century and runs from the market to the river. Most of its houses were built of brick and have two floors.\n\n"
    "North Lake\nNorth Lake is a small lake to the north of the town. It is about two kilometres long and is known for "
    "its birds. A path of five kilometres leads around it, and a ferry crosses it in summer.\n\n"
)
_BEFORE = "The sky was clear in the morning. The lake was calm at noon. The train stopped near the old tower. "
_CHUNK = "The leaves turned red. The bells rang in the village at night. The snow lay on the hill all day. "


@dataclass(frozen=True)
class Flatness:
    """Relative error of a chunk's keys with a primer of ``sentences``: in its first rows, and further in."""

    sentences: int
    head: float
    body: float

    @property
    def ratio(self) -> float:
        """Return how many times worse the first rows are."""
        return self.head / max(self.body, 1e-9)


def check_kind(kind: str, codec: Codec) -> None:
    """Raise ``BadOption`` unless ``kind`` is one of ``KINDS`` that the tokenizer has the tokens for."""
    if kind not in KINDS:
        message = f"sink={kind!r} is not accepted: sink is one of {', '.join(KINDS)}"
        raise BadOption(message)
    if kind == "bos" and not codec.bos_ids:
        message = "sink='bos' needs a tokenizer that adds a BOS token (accepted here: auto, none, dummy, primer)"
        raise BadOption(message)


def sink(kind: str, codec: Codec, adapter: ModelAdapter, verdicts: Verdicts) -> tuple[int, ...]:
    """Return the ids that a chunk is encoded behind.

    ``bos``: the tokenizer's BOS; ``none``: nothing; ``dummy``: four times the first token; ``primer``: BOS and as many
    neutral sentences as this model needs (at least one); ``context``: what a chat prompt begins with, and two neutral
    passages; ``auto``: BOS, or the primer where the measurement asks for one (``session.chunk`` may choose ``context``
    instead, by ``sink_choice``). Raises ``BadOption``.
    """
    check_kind(kind, codec)
    front = tuple(codec.bos_ids) or (_dummy(codec, adapter),)
    if kind == "none":
        return ()
    if kind == "dummy":
        return front[:1] * _DUMMIES
    if kind == "context":
        return (opening(codec) or front) + tuple(codec.part(PASSAGES, first=False))
    if kind == "bos" or adapter.rope is None:
        return front
    # in blocks that see all of themselves a chunk's rows also differ by their place, which is not measured
    sentences = primer_length(codec, adapter, verdicts) if adapter.capabilities.block is None else 0
    return front + primer(codec, max(1, sentences) if kind == "primer" else sentences)


def primer(codec: Codec, sentences: int) -> tuple[int, ...]:
    """Return the ids of the first ``sentences`` of the primer, as text in front of which nothing stands but BOS."""
    text = "".join(f"{sentence} " for sentence in PRIMER[:sentences])
    return tuple(codec.part(text, first=True)) if text else ()


def primer_length(codec: Codec, adapter: ModelAdapter, verdicts: Verdicts) -> int:
    """Return how many neutral sentences make a chunk's first rows as good as its others; measured once a model."""
    name = f"primer@{adapter.fingerprint}"
    known = verdicts.get(name)
    if isinstance(known, int):
        return known
    if not _writable(codec):
        return 0
    measured = [flatness(codec, adapter, sentences) for sentences in range(len(PRIMER) + 1)]
    least = min(each.ratio for each in measured)
    length = 0
    if measured[0].ratio > _FLAT and least < _WORTH * measured[0].ratio:
        length = next(each.sentences for each in measured if each.ratio <= max(_FLAT, _NEAR * least))
    verdicts.put(name, length)
    return length


def flatness(codec: Codec, adapter: ModelAdapter, sentences: int) -> Flatness:
    """Measure a neutral chunk behind a primer of ``sentences`` against the same chunk behind other text."""
    assert adapter.rope is not None  # noqa: S101
    front = tuple(codec.bos_ids) or (_dummy(codec, adapter),)
    chunk, ahead = codec.part(_CHUNK, first=False), primer(codec, sentences)
    context = codec.part(_BEFORE, first=True)
    alone = _keys(adapter, (*front, *ahead, *chunk), len(chunk))
    inside = _keys(adapter, (*front, *context, *chunk), len(chunk))
    old = torch.arange(len(chunk)) + len(front) + len(ahead)
    new = torch.arange(len(chunk)) + len(front) + len(context)
    errors = torch.zeros(len(chunk))
    for got, want in zip(adapter.rope.keys(alone, old, new), inside, strict=True):
        if want.numel():
            difference = (got.float() - want.float()).norm(dim=(0, 2)) / want.float().norm(dim=(0, 2)).clamp(min=1e-9)
            errors += difference.cpu()
    return Flatness(sentences, float(errors[_HEAD].mean()), float(errors[_BODY].mean()))


def _keys(adapter: ModelAdapter, ids: Sequence[int], n: int) -> tuple[torch.Tensor, ...]:
    cache = GrowingCache()
    adapter.forward(adapter.tensor(ids), cache, start=0)
    return cache.read(len(ids) - n, len(ids)).keys


def _writable(codec: Codec) -> bool:
    """Return whether the tokenizer has tokens for the primer's words: unknown ones measure nothing."""
    try:
        ids, unknown = primer(codec, len(PRIMER)), codec.tokenizer.unk_token_id
    except BadPrompt:
        return False
    return unknown is None or sum(each == unknown for each in ids) * 10 <= len(ids)


def _dummy(codec: Codec, adapter: ModelAdapter) -> int:
    known = (codec.tokenizer.bos_token_id, *eos_ids(getattr(adapter.model, "generation_config", None)))
    return next((i for i in known if i is not None), 0)
