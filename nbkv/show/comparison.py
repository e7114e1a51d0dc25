"""A Comparison as text and as HTML: one row a strategy, two plots, and the answers where they differ."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.answer import answer_html
from nbkv.show.badge import badge, badge_html
from nbkv.show.bars import ttft_html
from nbkv.show.page import notes_html, plots, table_html, table_text, view
from nbkv.show.scatter import fidelity_html
from nbkv.show.units import UNKNOWN, distance, nats, plural, seconds, share, times

# whose texts are the same stands below the table, where the answers are
COLUMNS = ("strategy", "TTFT", "speed-up", "hit rate", "computed", "KL", "KL max", "top-1", "differs at")
KEY = (
    "KL (nats): how far the probabilities of the next token are from full's, mean and largest over full's answer; "
    "top-1: how often the likeliest token is the same; differs at: the first token of the answer that is not full's"
)
MAX_ANSWER = 2_000  # bytes of each answer shown


def comparison_text(comparison: dict[str, Any]) -> str:
    """Return the table in columns of fixed width."""
    return f"{headline(comparison)}\n{table_text(COLUMNS, map(cells, comparison['rows']))}"


def comparison_html(comparison: dict[str, Any]) -> str:
    """Return table, plots and answers."""
    rows = comparison["rows"]
    body = [
        f"<p>{escape(headline(comparison))}</p>",
        table_html(COLUMNS, map(cells, rows)),
        f'<p class="nbkv-dim">{escape(KEY)}</p>' if any(row.get("kl") is not None for row in rows) else "",
        plots(ttft_html([(row["strategy"], row) for row in rows]), fidelity_html(rows)),
        _answers(rows),
        notes_html(_notes(rows)),
    ]
    return view("".join(body), "comparison")


def headline(comparison: dict[str, Any]) -> str:
    """Return model, prompt length and number of runs."""
    runs = f"median of {comparison['repeat']} runs" if comparison["repeat"] > 1 else "one run"
    about = f"{comparison['model']}, {plural(comparison['prompt_tokens'], 'prompt token')}, {runs} each"
    stopped = comparison.get("stopped")
    return f"{about}; {stopped}, the rows are of what had run" if stopped else about


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return a row of the table, below ``COLUMNS``."""
    return (
        str(row["strategy"]),
        seconds(row.get("ttft_s")),
        times(row.get("speedup")),
        share(row.get("hit_rate")),
        share(row.get("compute_share")),
        distance(row.get("kl"), row.get("floor")),
        nats(row.get("kl_max")),
        share(row.get("top1")),
        _differs(row),
    )


def _differs(row: dict[str, Any]) -> str:
    """Return at which token of full's answer the strategy would first have written another."""
    if row.get("kl") is None:
        return UNKNOWN
    at = row.get("diverges_at")
    return "never" if at is None else str(at + 1)


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    """Return each note once, with the strategies it belongs to unless it belongs to all."""
    by_note: dict[str, list[str]] = {}
    for row in rows:
        for note in filter(None, str(row.get("notes") or "").split("; ")):
            by_note.setdefault(note, []).append(str(row["strategy"]))
    return [note if len(names) == len(rows) else f"{', '.join(names)}: {note}" for note, names in by_note.items()]


def _answers(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    by_text: dict[str, list[str]] = {}
    for row in rows:
        by_text.setdefault(str(row.get("text", "")), []).append(str(row["strategy"]))
    title = "The answer, the same from all" if len(by_text) == 1 else f"{len(by_text)} different answers"
    exact = {str(row["strategy"]): row["exact"] for row in rows if "exact" in row}
    measured = {str(row["strategy"]): row for row in rows}

    def named(name: str) -> str:
        honest = f" {badge_html(badge(exact[name], measured[name]))}" if name in exact else ""
        return f"<b>{escape(name)}</b>{honest}"

    answers = "".join(
        f"<p>{', '.join(map(named, names))}</p>{answer_html(text, markdown=False, most=MAX_ANSWER)}"
        for text, names in by_text.items()
    )
    return f"<details><summary>{title}</summary>{answers}</details>"
