"""The running figures of a session, and the tiers of its store."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.page import table_html, table_text, view
from nbkv.show.units import count, nats, plural, rate, seconds, share, size

STRATEGY_COLUMNS = (
    "strategy", "requests", "hit rate", "computed", "TTFT", "measured", "KL mean", "KL max", "top-1",
)  # fmt: skip
GATE_COLUMNS = ("chunk", "reused", "refused", "anchors", "entropy / bound", "KL of reuse", "explained", "last refusal")
TIER_COLUMNS = ("tier", "entries", "held", "limit", "hits", "misses", "evictions")


def stats_text(stats: dict[str, Any]) -> str:
    """Return the figures, the table of strategies and that of tiers."""
    width = max(len(name) for name, _ in _figures(stats))
    lines = [_headline(stats), *(f"  {name.ljust(width)}  {value}" for name, value in _figures(stats))]
    strategies = [table_text(STRATEGY_COLUMNS, _strategies(stats))] if stats.get("strategies") else []
    gate = [table_text(GATE_COLUMNS, _gate(stats))] if stats.get("gate") else []
    return "\n".join([*lines, *strategies, *gate, table_text(TIER_COLUMNS, _tiers(stats))])


def stats_html(stats: dict[str, Any]) -> str:
    """Return the figures, the table of strategies and that of tiers."""
    strategies = table_html(STRATEGY_COLUMNS, _strategies(stats), caption="Strategies (KL and top-1 against full)")
    body = [
        f"<p><b>{escape(_headline(stats))}</b></p>",
        table_html(("figure", "value"), _figures(stats), left=(0, 1)),
        strategies if stats.get("strategies") else "",
        table_html(GATE_COLUMNS, _gate(stats), caption="Gate (of reuse with anchors)", left=(0, 7))
        if stats.get("gate")
        else "",
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
        *_anchors(stats.get("anchors") or {}),
        *_not_kept(stats.get("not_kept") or {}),
    ]


def _not_kept(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return how often an entry did not fit into the store, and what the last one needed; nothing where all did."""
    return [("not kept", f"{count(found['count'])}, last {found['last']}")] if found.get("count") else []


def _anchors(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what the pool of anchors holds; nothing where there is none."""
    if not found:
        return []
    held = f"{count(found['count'])}, {size(found['bytes'])} of {size(found['limit'])}"
    return [("anchors", f"{held}, {count(found['evicted'])} evicted")]


def _gate(stats: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the gate's decisions by chunk name."""
    return [
        (
            name,
            count(each["accepted"]),
            count(each["refused"]),
            count(each["anchors"]),
            share(each["entropy"]),
            nats(each["kl"]),
            share(each["explained"]),
            each["why"],
        )
        for name, each in stats["gate"].items()
    ]


def _strategies(stats: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the running figures of each strategy; fidelity is a dash where nothing was measured."""
    return [
        (
            str(spec),
            count(each["requests"]),
            share(each["hit_rate"]),
            share(each["compute_share"]),
            seconds(each["ttft_s"]),
            count(each["measured"]),
            nats(each["kl"]),
            nats(each["kl_max"]),
            share(each["top1"]),
        )
        for spec, each in stats.get("strategies", {}).items()
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
