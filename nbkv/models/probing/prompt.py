"""The made-up prompt on which models are probed, verified and timed."""

from __future__ import annotations

_STEP = 7919  # a prime: token ids then come in no order, and are all different in any usual vocabulary


def made_up_ids(n: int, vocabulary: int, step: int = _STEP) -> tuple[int, ...]:
    """Return ``n`` token ids below ``vocabulary``, always the same; another prime ``step`` gives others."""
    return tuple((step * i) % vocabulary for i in range(1, n + 1))
