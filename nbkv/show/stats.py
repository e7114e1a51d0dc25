"""The running figures of a session, and the tiers of its store."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.page import table_html, table_text, view
from nbkv.show.units import count, plural, rate, seconds, share, size

TIER_COLUMNS = ("tier", "entries", "held", "limit", "hits", "misses", "evictions")


def stats_text(stats: dict[str, Any]) -> str:
    """Return the figures and the table of tiers."""
    width = max(len(name) for name, _ in _figures(stats))
    lines = [_headline(stats), *(f"  {name.ljust(width)}  {value}" for name, value in _figures(stats))]
    return "\n".join([*lines, table_text(TIER_COLUMNS, _tiers(stats))])


def stats_html(stats: dict[str, Any]) -> str:
    """Return the figures and the table of tiers."""
    body = [
        f"<p><b>{escape(_headline(stats))}</b></p>",
        table_html(("figure", "value"), _figures(stats), left=(0, 1)),
        table_html(TIER_COLUMNS, _tiers(stats), caption="Store"),
    ]
    return view("".join(body), "stats")


def _headline(stats: dict[str, Any]) -> str:
    return f"{stats['session']}: {stats['model']} with {stats['strategy']}, {plural(stats['requests'], 'request')}"


def _figures(stats: dict[str, Any]) -> list[tuple[str, str]]:
    ttft = stats.get("ttft_s") or {}
    reused = f"{count(stats['reused'])} ({share(stats['hit_rate'])})"
    return [
        ("prompt tokens", count(stats["prompt_tokens"])),
        ("reused", reused),
        ("recomputed", count(stats["recomputed"])),
        ("fresh", count(stats["fresh"])),
        ("generated", f"{count(stats['generated'])} ({rate(stats.get('tokens_per_s'))})"),
        ("TTFT", ", ".join(f"{name} {seconds(ttft.get(name))}" for name in ("last", "mean", "p50", "p90"))),
        ("fallbacks", count(stats.get("fallbacks"))),
        ("evictions", count(stats.get("evictions"))),
    ]


def _tiers(stats: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            str(tier["tier"]),
            count(tier["entries"]),
            size(tier["bytes"]),
            size(tier.get("limit")),
            count(tier["hits"]),
            count(tier["misses"]),
            count(tier["evictions"]),
        )
        for tier in stats.get("tiers", ())
    ]
