"""What a request is measured by: seconds, tokens, token-layers, and the distance to full recompute."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds: ``ttft_s`` from tokenised request to first token (with load and select); ``tpot_s`` per later token."""

    ttft_s: float = 0.0
    load_s: float = 0.0
    select_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    total_s: float = 0.0
    tpot_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Prompt tokens by where their KV came from; ``reused + recomputed + fresh = prompt``."""

    prompt: int
    reused: int
    recomputed: int
    fresh: int


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Token-layers run, over prompt tokens x layers: ``select`` (check and question passes) + ``rows`` = ``share``.

    ``decode`` is what was run again for the answer, in the same unit: all that its passes ran beyond once for each
    decoded token. 0 where each token is run once behind what is cached, whatever was dropped of that.
    """

    share: float = 0.0
    select: float = 0.0
    rows: float = 0.0
    decode: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Distance to ``full`` on the same prompt, over the first ``n`` greedy tokens of full's answer, which are forced.

    ``kl`` is the mean of KL(full || strategy) of the next-token distributions in nats, ``kl_max`` the largest; ``top1``
    the share of full's tokens that the strategy would pick too; ``diverges_at`` the index of the first one that it
    would not, None if it picks all. ``floor`` is the mean KL of full to itself when its prefill is split elsewhere, the
    noise of this model and dtype; None where it is not known.
    """

    kl: float
    kl_max: float
    top1: float
    n: int
    diverges_at: int | None = None
    floor: float | None = None
