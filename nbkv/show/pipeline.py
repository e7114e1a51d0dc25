"""A pipeline's results as text and as HTML: one row an agent, and a grid of which output was reused in which prompt."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.page import Drawn, notes_html, table_html, table_text, view
from nbkv.show.palette import PROVENANCE
from nbkv.show.units import UNKNOWN, count, cut, plural, seconds, share

AGENTS = ("agent", "prompt tokens", "reused", "TTFT", "new tokens", "answer")
EDGES = ("text or output", "in the prompt of", "tokens", "reused", "share", "TTFT")
_WORDS = (0, 5)
_TEXT = 120  # characters of an answer
_ROWS = 40  # edges that are shown one by one; the frame has all
_BAR = 90  # pixels of a bar of all tokens


def pipeline_text(pipeline: dict[str, Any]) -> str:
    """Return the headline, one row an agent, one row an edge."""
    lines = [_headline(pipeline), table_text(AGENTS, map(_agent(pipeline), pipeline["agents"]), left=_WORDS)]
    if edges := pipeline["edges"][:_ROWS]:
        lines += ["", table_text(EDGES, map(_edge(pipeline), edges), left=(0, 1))]
    return "\n".join([*lines, *_told(pipeline)])


def pipeline_html(pipeline: dict[str, Any]) -> str:
    """Return the same as a view, with a bar for each edge: how much of the output was reused."""
    body = [
        f"<p><b>{escape(_headline(pipeline))}</b></p>",
        table_html(AGENTS, map(_agent(pipeline), pipeline["agents"]), left=_WORDS),
        _edges_html(pipeline),
        notes_html(_told(pipeline)),
    ]
    return view("".join(body), "pipeline")


def _headline(pipeline: dict[str, Any]) -> str:
    done = sum(row["error"] is None and row["finish_reason"] != "interrupted" for row in pipeline["agents"])
    rounds = f" in {pipeline['rounds']} rounds" if pipeline["rounds"] > 1 else ""
    said = f"{plural(done, 'answer')} of agents{rounds} in {seconds(pipeline['seconds'])}"
    return f"{pipeline['model']}, {pipeline['strategy']}: {said}, {share(pipeline['hit_rate'])} of prompt tokens reused"


def _edges_html(pipeline: dict[str, Any]) -> str:
    edges = pipeline["edges"][:_ROWS]
    if not edges:
        return ""
    rows = ((*cells, Drawn(_bar(edge))) for edge, cells in zip(edges, map(_edge(pipeline), edges), strict=True))
    return table_html(
        (*EDGES, ""), rows, caption="What was reused of each text or output, in whose prompt", left=(0, 1)
    )


def _bar(edge: dict[str, Any]) -> str:
    """Return tokens reused, run again and fresh as one bar in the colours of the token map."""
    fresh = edge["tokens"] - edge["reused"] - edge["recomputed"]
    parts = (
        ("CHUNK", "reused", edge["reused"]),
        ("RECOMPUTED", "recomputed", edge["recomputed"]),
        ("FRESH", "fresh", fresh),
    )
    drawn = "".join(
        f'<span style="display:inline-block;height:9px;width:{_BAR * n / edge["tokens"]:.1f}px;'
        f'background-color:{PROVENANCE[source].colour}"></span>'
        for source, _, n in parts
        if n
    )
    told = ", ".join(f"{n} {word}" for _, word, n in parts if n)
    return f'<span role="img" aria-label="{told}" title="{told}" style="white-space:nowrap">{drawn}</span>'


def _agent(pipeline: dict[str, Any]) -> Any:  # noqa: ANN401  (a function over rows)
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        name = _named(row["agent"], row["round"], pipeline)
        if row["error"] is not None:
            return (name, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, cut(row["error"], _TEXT))
        figures = (count(row["prompt"]), share(row["hit_rate"]), seconds(row["ttft_s"]), count(row["generated"]))
        return (name, *figures, cut(" ".join(row["text"].split()), _TEXT))

    return cells


def _edge(pipeline: dict[str, Any]) -> Any:  # noqa: ANN401  (a function over rows)
    def cells(edge: dict[str, Any]) -> tuple[str, ...]:
        figures = (count(edge["tokens"]), count(edge["reused"]), share(edge["share"]), seconds(edge["ttft_s"]))
        return (edge["source"], _named(edge["agent"], edge["round"], pipeline), *figures)

    return cells


def _named(agent: str, number: int, pipeline: dict[str, Any]) -> str:
    return f"{agent}, round {number}" if pipeline["rounds"] > 1 else agent


def _told(pipeline: dict[str, Any]) -> list[str]:
    failed = [f"failed: {row['error']}" for row in pipeline["agents"] if row["error"] is not None]
    more = len(pipeline["edges"]) - _ROWS
    rest = [f"… {plural(more, 'more text or output', 'more texts or outputs')}: to_frame() has all"] if more > 0 else []
    return [*rest, *failed, *([pipeline["stopped"]] if pipeline["stopped"] else [])]
