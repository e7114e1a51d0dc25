"""A restore plan as text and as HTML: bytes a token beside the time of a restoration, form by form."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.page import notes_html, table_html, table_text, view
from nbkv.show.units import count, plural, seconds, share, size, yes

COLUMNS = ("form", "exact", "bytes/token", "of K/V", "on the device", "restore", "")
_WORDS = (0, 6)


def plan_text(plan: dict[str, Any]) -> str:
    """Return what was measured, the table, and what is refused with the reason."""
    refused = [f"  {way['form']}: {way['refused']}" for way in plan["ways"] if way["refused"]]
    lines = [_headline(plan), _rates(plan), table_text(COLUMNS, _rows(plan), left=_WORDS)]
    return "\n".join([*lines, *(["refused:", *refused] if refused else [])])


def plan_html(plan: dict[str, Any]) -> str:
    """Return the same as a view."""
    refused = [f"{way['form']} refused: {way['refused']}" for way in plan["ways"] if way["refused"]]
    body = [
        f"<p><b>{escape(_headline(plan))}</b></p>",
        table_html(COLUMNS, _rows(plan), left=_WORDS),
        f'<p class="nbkv-dim">{escape(_rates(plan))}</p>',
        notes_html(refused),
    ]
    return view("".join(body), "plan")


def _headline(plan: dict[str, Any]) -> str:
    kv = f"K/V {count(plan['kv_bytes'])} bytes a token"
    about = f"{plan['model']} ({plan['dtype']}, {plan['device']}): {kv}, {plural(plan['tokens'], 'older token')}"
    stopped = plan.get("stopped")
    return f"{about}; {stopped}, nothing is picked" if stopped else about


def _rates(plan: dict[str, Any]) -> str:
    rates = plan["rates"]
    if rates is None:
        return "measured: nothing yet"
    links = ", ".join(
        f"{what} {size(rates[name])}/s"
        for name, what in (("memory", "device memory"), ("host", "host to device"), ("disk", "disk"))
    )
    same = "; host memory is the device's own here" if plan["device"].startswith("CPU") else ""
    return f"measured: {links}, matrix products {rates['gemm'] / 1e9:,.0f} GFLOP/s{same}"


def _rows(plan: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("K/V kept", "yes", count(plan["kv_bytes"]), share(1.0), size(plan["kv_bytes"]), "0 ms", "")
    ]
    for way in plan["ways"]:
        if not way["refused"]:
            mine = "picked" if way["form"] == plan["pick"] else ""
            sizes = count(way["token_bytes"]), share(way["token_bytes"] / plan["kv_bytes"]), size(way["device_bytes"])
            rows.append((way["form"], yes(way["exact"]), *sizes, seconds(way["seconds"]), mine))
    return rows
