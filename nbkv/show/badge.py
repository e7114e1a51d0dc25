"""The honesty of an answer in a few words: exact, or approximate and what is known of how far it is from full."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.units import distance

_NOISE = 1e-6  # nats


def badge(exact: bool, fidelity: dict[str, Any] | None) -> str:  # noqa: FBT001  (a fact, not a flag)
    """Return ``exact``, ``approximate, not measured`` or ``approximate, KL 0.06, differs at token 12``.

    ``fidelity`` is the measured distance to full over its first greedy tokens; an exact answer is told with its
    distance only where that is more than noise.
    """
    if fidelity is None or fidelity.get("kl") is None:
        return "exact" if exact else "approximate, not measured"
    parts, n = fidelity.get("diverges_at"), fidelity.get("n")
    where = f"differs at token {parts + 1}" if parts is not None else _same(n)
    if exact and parts is None and fidelity["kl"] <= max(_NOISE, fidelity.get("floor") or 0):
        return "exact"
    kind = "exact by design" if exact else "approximate"
    return f"{kind}, KL {distance(fidelity['kl'], fidelity.get('floor'))}, {where}"


def _same(n: int | None) -> str:
    return "same tokens as full" if n is None else f"same {n} tokens as full" if n > 1 else "same token as full"


def badge_html(words: str) -> str:
    """Return the words in a frame: closed for exact, dashed for approximate."""
    sign, line = ("=", "solid") if words.startswith("exact") else ("≈", "dashed")
    look = f"border:1px {line} #808080;border-radius:9px;padding:0px 8px;display:inline-block"
    return f'<span class="nbkv-badge" style="{look}">{sign} {escape(words)}</span>'
