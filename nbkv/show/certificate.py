"""A certificate: what may be promised of which strategy, what was measured, and what it is about."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from nbkv.show.page import emphasised, notes_html, table_html, table_text, view
from nbkv.show.units import UNKNOWN, distance, nats, plural, share, times

COLUMNS = ("strategy", "budget", "verdict", "above", "at most", "KL", "worst KL", "computed", "speed-up")
_WORDS = (0, 2)
_UNTESTED = "not tested"


def certificate_text(certificate: dict[str, Any]) -> str:
    """Return the choice with its reason, the table, and what it is about."""
    notes = "".join(f"\nnote: {note}" for note in certificate["notes"])
    table = table_text(COLUMNS, _rows(certificate), left=_WORDS)
    return f"{_headline(certificate)}\n{table}\n{_key(certificate)}\n{_about(certificate)}{notes}"


def certificate_html(certificate: dict[str, Any]) -> str:
    """Return the same as a view."""
    rows = [emphasised(row) if row[0] == certificate["chosen"] else row for row in _rows(certificate)]
    tested = [row for row in rows if row[2] != _UNTESTED]
    untested = [row for row in rows if row[2] == _UNTESTED]
    body = [
        f"<p><b>{escape(_headline(certificate))}</b></p>",
        table_html(COLUMNS, tested, left=_WORDS),
        f'<p class="nbkv-dim">{escape(_key(certificate))}</p>',
        _folded(untested),
        f'<p class="nbkv-dim">{escape(_about(certificate))}</p>{notes_html(certificate["notes"])}',
    ]
    return view("".join(body), "certificate")


def _headline(certificate: dict[str, Any]) -> str:
    return certificate["why"] if certificate["chosen"] else f"refused: {certificate['why']}"


def _folded(rows: Sequence[Sequence[str]]) -> str:
    """Return the settings that were not tested, folded away: a safer one of the same strategy was refused."""
    if not rows:
        return ""
    title = f"{plural(len(rows), 'setting')} not tested, for a safer one of the same strategy was refused"
    return f"<details><summary>{title}</summary>{table_html(COLUMNS, rows, left=_WORDS)}</details>"


def _key(certificate: dict[str, Any]) -> str:
    return (
        f"above: prompts above {certificate['max_kl']:g} nats, of those measured; at most: the share of all prompts "
        "that may be above it, at this confidence; computed: token-layers run, of prompt x layers"
    )


def _about(certificate: dict[str, Any]) -> str:
    return (
        f"{certificate['model']} in {certificate['dtype'].removeprefix('torch.')}, sink {certificate['sink']}; "
        f"{plural(certificate['n'], 'prompt')} (at least {certificate['needed']}), of which "
        f"{certificate['allowed']} may be above {certificate['max_kl']:g} nats; "
        f"rate {certificate['rate']:g}, alpha {certificate['alpha']:g}"
    )


def _rows(certificate: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            row["strategy"],
            UNKNOWN if row["budget"] is None else f"{row['budget']:g}",  # a specification leaves its default out
            row["verdict"] + (", chosen" if row["strategy"] == certificate["chosen"] else ""),
            UNKNOWN if row["above"] is None else f"{row['above']} of {row['n']}",
            share(row["bound"]),
            distance(row["kl"], certificate["floor"]),
            nats(row["kl_max"]),
            share(row["compute_share"]),
            times(row["ttft_ratio"]),
        )
        for row in certificate["rows"]
    ]
