"""Which sink a model's chunks are best encoded behind: measured without labels, on neutral prompts of its own.

The measure is what matters to a user: how far naive reuse of chunks is from full recompute, in nats over full's own
greedy words. On SmolLM2 and Qwen2.5-Coder 0.5B it put the sinks in the order that real questions put them in where they
differ much (docs/own-method.md); how flat a chunk's key errors are did not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from nbkv.context import Context
from nbkv.events import Bus
from nbkv.families.blend.base import Blend
from nbkv.families.blend.partial import PartialPrefill
from nbkv.fidelity import kl_rows
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.models.sampling import Sampling
from nbkv.prompts.prompt import Prompt, build
from nbkv.result import Chunk
from nbkv.session.measure import greedy
from nbkv.stores.base import Scratch
from nbkv.stores.memory import MemoryStore
from nbkv.strategy import parse

_TOKENS = 8  # of full's answer that are looked at
_ROOM = 1024  # tokens; a neutral prompt and what its chunks are encoded behind fit well
_WORTH = 0.75  # a longer sink must bring the distance down to this share of a shorter one's

# Neutral texts in several manners, none of them that of the passages a chunk is encoded behind; written for this.
_PROMPTS = (
    (
        "Dear all, the meeting moves to Thursday at ten. Please bring the figures of last month. Regards, Anna\n\n",
        "To clean the filter, switch the machine off and wait until it is cold. Turn the lid to the left.\n\n",
        "Peel two apples and cut them small. Melt the butter, add the sugar, stir for five minutes.\n\n",
        "What should be brought to the meeting?",
    ),
    (
        "The ferry was late again on Monday. Passengers waited for two hours, and the kiosk ran out of tea.\n\n",
        "def area(width, height):\n    # both in metres\n    return width * height\n\n",
        "Minutes: the budget was agreed. Peter will write to the school. The next date is the fourth of May.\n\n",
        "Who will write to the school?",
    ),
    (
        "Item, colour, price\nchair, red, 40\ntable, white, 120\nlamp, green, 25\n\n",
        "I grew up by the sea, and I still wake before dawn. My brother kept the boats; I kept the books.\n\n",
        "The rule is simple: whoever enters last closes the door. It has been so since the house was built.\n\n",
        "What does the table cost?",
    ),
)


@dataclass(kw_only=True, repr=False)
class NaiveReuse(Blend):
    """Every chunk as it was encoded, no row run again; not registered."""

    budget: float = 0.0
    label: ClassVar[str] = "naive"

    @property
    def spec(self) -> str:
        """Return its name."""
        return self.label

    def select(self, partial: PartialPrefill) -> torch.Tensor:
        """Return no row."""
        return partial.reused[:0]


Encode = Callable[[Context, str, str, str], Chunk]
"""Makes a chunk of a text under a name, behind a kind of sink."""


def can_measure(ctx: Context) -> bool:
    """Return whether this model's chunks can be reused at all, and its tokenizer can write the neutral texts."""
    known = ctx.adapter.capabilities
    able = all(getattr(known, need) for need in NaiveReuse.needs) and known.block is None
    return able and known.context >= _ROOM and _readable(ctx)


def better_sink(ctx: Context, shorter: str, longer: str, encode: Encode) -> str:
    """Return ``longer`` if naive reuse is much nearer to full with it than with ``shorter``; measured once a model.

    ``shorter`` where it cannot be measured.
    """
    name = f"sink@{ctx.model}@{ctx.adapter.dtype}@{len(ctx.codec.tokenizer)}@{shorter}@{longer}"
    known = ctx.verdicts.get(name)
    if known in {shorter, longer}:
        return str(known)
    if not can_measure(ctx):
        ctx.verdicts.hold(name, shorter)
        return shorter
    apart = replace(ctx, store=MemoryStore(limit=2**40), bus=Bus(), scratch=Scratch())
    near, far = (sum(distances(apart, kind, encode)) for kind in (longer, shorter))
    chosen = longer if near < _WORTH * far else shorter
    ctx.verdicts.put(name, chosen)
    return chosen


def _readable(ctx: Context) -> bool:
    unknown = ctx.codec.tokenizer.unk_token_id
    ids = [each for texts in _PROMPTS for text in texts for each in ctx.codec.part(text, first=False)]
    return unknown is None or sum(each == unknown for each in ids) * 10 <= len(ids)


def distances(ctx: Context, kind: str, encode: Encode) -> Iterator[float]:
    """Yield the mean KL of naive reuse to full over full's first tokens, in nats, for each neutral prompt."""
    for *texts, question in _PROMPTS:
        chunks = [encode(ctx, text, hashlib.sha256(f"{kind} {text}".encode()).hexdigest()[:16], kind) for text in texts]
        prompt = _prompt(ctx, [*chunks, question])
        picked = greedy(ctx, prompt, _TOKENS)
        full, naive = (
            follow(RequestRun(ctx, one, prompt, Sampling(max_new_tokens=len(picked))), picked)
            for one in (parse("full"), NaiveReuse())
        )
        yield float(kl_rows(full, naive).mean())


def _prompt(ctx: Context, parts: list[Chunk | str]) -> Prompt:
    asked = [{"role": "user", "content": parts}] if ctx.codec.has_template else parts
    return build(ctx.codec, asked, ctx.model, ctx.eos)
