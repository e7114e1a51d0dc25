"""What a live dashboard leaves on a page without a kernel: its last figures, static."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from nbkv.show.bars import ttft_html
from nbkv.show.page import plots, table_html, view
from nbkv.show.units import count, cut, nats, plural, rate, seconds, share, size

MAX_BARS = 12
MAX_CARDS = 4
MAX_TITLE = 36  # characters: names have no spaces to break at


TIERS = ("tier", "entries", "held", "limit")
_LEFT = ' style="text-align:left"'


def dashboard_text(state: dict[str, Any]) -> str:
    """Return the figures in one line."""
    tiers = ", ".join(f"{size(tier['bytes'])} in {tier['tier']}" for tier in state["tiers"])
    parts = [
        f"KV dashboard of {state['session']}: {state['model']} with {state['strategy']}",
        plural(state["requests"], "request"),
        f"{share(state['hit_rate'])} reused",
        f"TTFT {seconds(state['ttft_s'])}",
        rate(state["tokens_per_s"]),
        f"KL {nats(state['kl'])}",
        tiers,
        plural(state["evictions"], "eviction"),
    ]
    return " · ".join(part for part in parts if part)


def dashboard_html(state: dict[str, Any]) -> str:
    """Return the figures, the last requests as bars, and the store."""
    rows = state["rows"][-MAX_BARS:]
    labels = [(f"{row['request']} {cut(row['strategy'], 16)}, {share(row['hit_rate'])}", row) for row in rows]
    tiers = [
        (tier["tier"], count(tier["entries"]), size(tier["bytes"]), size(tier["limit"])) for tier in state["tiers"]
    ]
    figures = [
        ("reused", share(state["hit_rate"])),
        ("TTFT, median", seconds(state["ttft_s"])),
        ("speed, median", rate(state["tokens_per_s"])),
        ("KL to full, median", nats(state["kl"])),
        ("evictions", count(state["evictions"])),
        ("fallbacks", count(state["fallbacks"])),
    ]
    title = f"{state['session']}: {state['model']} with {state['strategy']}, {plural(state['requests'], 'request')}"
    body = plots(
        _pairs(figures),
        # a table has no width of its own: its place has
        f'<div style="flex:1 1 220px">{table_html(TIERS, tiers)}</div>' if tiers else "",
        ttft_html(labels, "Time to first token and hit rate by request") if rows else "",
    )
    return view(f"<p><b>{escape(title)}</b></p>{body}", "dashboard")


def _pairs(figures: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f"<tr><td{_LEFT}>{escape(name)}</td><td{_LEFT}>{escape(value)}</td></tr>" for name, value in figures)
    return f"<div><table>{rows}</table></div>"


def cards_text(title: str, cards: Sequence[dict[str, str]]) -> str:
    """Return the title and one line a card."""
    return "\n".join([title, *(f"  {card['title']}: {card['text']}" for card in cards)])


def cards_html(title: str, cards: Sequence[dict[str, str]]) -> str:
    """Return the last cards side by side; where there is no room for them the row can be scrolled."""
    shown = "".join(
        f'<div style="flex:1 0 300px;min-width:0"><p title="{escape(card["title"])}">'
        f"<b>{escape(cut(card['title'], MAX_TITLE))}</b></p>{card['html']}</div>"
        for card in cards[-MAX_CARDS:]
    )
    side = "display:flex;align-items:flex-start;gap:8px 28px;overflow-x:auto"
    return view(f'<p>{escape(title)}</p><div style="{side}">{shown}</div>', "cards")
