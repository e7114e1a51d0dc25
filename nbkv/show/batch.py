"""The results of a batch as text and as HTML: what it took, and one row a prompt."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.page import notes_html, table_html, table_text, view
from nbkv.show.result import ENDS
from nbkv.show.units import UNKNOWN, count, cut, plural, rate, seconds, share, size

COLUMNS = ("prompt", "tokens", "reused", "new", "ended", "answer")
_WORDS = (4, 5)
_SHOWN = 12  # rows; the table has them all
_TEXT = 120  # characters of an answer


def batch_text(batch: dict[str, Any]) -> str:
    """Return figures, what failed, and the first rows."""
    more = len(batch["rows"]) - _SHOWN
    lines = [_headline(batch), _figures(batch), *_failed(batch), *batch["notes"]]
    lines.append(table_text(COLUMNS, map(_cells, batch["rows"][:_SHOWN]), left=_WORDS))
    return "\n".join([*lines, *([f"… {plural(more, 'more prompt')}: to_frame() has all"] if more > 0 else [])])


def batch_html(batch: dict[str, Any]) -> str:
    """Return the same as a view."""
    more = len(batch["rows"]) - _SHOWN
    body = [
        f"<p><b>{escape(_headline(batch))}</b></p>",
        f'<p class="nbkv-dim">{escape(_figures(batch))}</p>',
        table_html(COLUMNS, map(_cells, batch["rows"][:_SHOWN]), left=_WORDS),
        f'<p class="nbkv-dim">… {plural(more, "more prompt")}: <code>to_frame()</code> has all</p>' if more > 0 else "",
        notes_html([*_failed(batch), *batch["notes"]]),
    ]
    return view("".join(body), "batch")


def _headline(batch: dict[str, Any]) -> str:
    done = len(batch["rows"]) - len(batch["errors"]) - batch["interrupted"]
    said = f"{done} of {plural(len(batch['rows']), 'prompt')} answered"
    lost = [
        f"{number} {word}"
        for number, word in ((len(batch["errors"]), "failed"), (batch["interrupted"], "interrupted"))
        if number
    ]
    return ", ".join([f"{batch['model']}, {batch['strategy']}: {said}", *lost])


def _figures(batch: dict[str, Any]) -> str:
    figures = batch["figures"]
    took = (
        f"{seconds(batch['seconds'])}, {plural(batch['generated'], 'token')} generated ({rate(batch['tokens_per_s'])})"
    )
    reused = f"{share(batch['hit_rate'])} of prompt tokens reused"
    if not figures["together"]:
        return f"{took}; {reused}; one prompt after another"
    sizes = figures["groups"]
    groups = f"{plural(len(sizes), 'group')} of {_range(sizes)}" if sizes else "no shared prefix"
    held = f"K/V at most {size(figures['peak_bytes'])}, of it shared {size(figures['shared_bytes'])}"
    return f"{took}; {reused}; {groups}, {plural(figures['passes'], 'pass', 'passes')}; {held}"


def _range(sizes: list[int]) -> str:
    least, most = min(sizes), max(sizes)
    return plural(most, "prompt") if least == most else f"{least} to {most} prompts"


def _failed(batch: dict[str, Any]) -> list[str]:
    return [f"failed: {each['error']}" for each in batch["errors"]]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row["error"] is not None:
        return (row["prompt_label"], UNKNOWN, UNKNOWN, UNKNOWN, "failed", cut(row["error"], _TEXT))
    return (
        row["prompt_label"],
        count(row["prompt_tokens"]),
        count(row["reused"]),
        count(row["generated"]),
        ENDS.get(row["finish_reason"], row["finish_reason"]),
        cut(" ".join(row["text"].split()), _TEXT),
    )
