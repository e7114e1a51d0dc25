"""A search as text and as HTML: the best answer, what it took, the tree with its rewards, and K/V by depth."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.page import notes_html, table_html, table_text, view
from nbkv.show.palette import SERIES
from nbkv.show.result import ENDS
from nbkv.show.units import UNKNOWN, count, cut, plural, rate, seconds, size, times

STEPS = ("step", "branches", "from", "tokens", "K/V held", "without sharing", "best reward", "ended")
_SHOWN = 40  # nodes of the tree; the table has them all
_TEXT = 72  # characters of a step
_WIDTH = 60  # pixels of a reward of the highest value
_FOUND, _GONE = SERIES[0], "rgba(128,128,128,.55)"


def search_text(search: dict[str, Any]) -> str:
    """Return the best answer, figures, the tree and what was held."""
    lines = [search["text"] or "no answer has a reward", _headline(search), _figures(search), *_told(search)]
    for depth, node in _tree(search):
        mark = "* " if node["best"] else "  "
        lines.append(f"{'  ' * (depth - 1)}{mark}{_value(node['reward'])} {_said(node)}{_state(node)}")
    lines += [_more(search), table_text(STEPS, map(_cells, search["steps"]), left=())]
    return "\n".join(line for line in lines if line)


def search_html(search: dict[str, Any]) -> str:
    """Return the same as a view."""
    answer = search["text"]
    shown = f'<div class="nbkv-answer" style="white-space:pre-wrap">{escape(answer)}</div>' if answer else ""
    rewards = [node["reward"] for node in search["nodes"] if node["reward"] is not None]
    scale = (min([0.0, *rewards]), max([0.0, *rewards]))
    nodes = "".join(_node_html(depth, node, scale) for depth, node in _tree(search))
    opened = " open" if len(search["nodes"]) <= _SHOWN else ""
    body = [
        shown or "<p>no answer has a reward</p>",
        f"<p><b>{escape(_headline(search))}</b></p>",
        f'<p class="nbkv-dim">{escape(_figures(search))}</p>',
        f"<details{opened}><summary>the tree: {plural(len(search['nodes']), 'step')}</summary>{nodes}",
        f'<p class="nbkv-dim">{escape(_more(search))}</p></details>',
        table_html(STEPS, map(_cells, search["steps"]), left=()),
        notes_html(_told(search)),
    ]
    return view("".join(body), "search")


def _headline(search: dict[str, Any]) -> str:
    ends = [each["finish_reason"] for each in search["trajectories"]]
    told = f"{search['model']}, {search['method']}, width {search['width']}: {plural(len(ends), 'answer')}"
    reward = "" if search["reward"] is None else f", the best with reward {_value(search['reward'])}"
    return f"{told}{reward}{', stopped early' if search['stopped'] else ''}"


def _figures(search: dict[str, Any]) -> str:
    held = search["kv_bytes"]
    less = f", {times(held['alone'] / held['average'])} less than without sharing" if held["average"] else ""
    took = f"{seconds(search['seconds'])}, {plural(search['generated'], 'token')} in all branches"
    kept = f"K/V on average {size(held['average'])}{less}, at most {size(held['peak'])}"
    return f"{took} ({rate(search['tokens_per_s'])}); {kept}"


def _told(search: dict[str, Any]) -> list[str]:
    stopped = [search["stopped"]] if search["stopped"] else []
    return [*stopped, *(f"failed: {each['error']}" for each in search["errors"]), *search["notes"]]


def _tree(search: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """Return the nodes with their depths, each behind its parent; where they are many, those that went on or ended."""
    below: dict[object, list[dict[str, Any]]] = {}
    many = len(search["nodes"]) > _SHOWN
    for node in search["nodes"]:
        if not many or node["state"] != "pruned" or node["best"]:
            below.setdefault(node["parent"], []).append(node)
    left, found = [*reversed(below.get(None, []))], []
    while left:
        node = left.pop()
        found.append((node["depth"], node))
        left += reversed(below.get(node["node"], []))
    if len(found) > _SHOWN:  # the best answer is never left out
        spare = _SHOWN - sum(node["best"] for _, node in found)
        kept = [at for at, (_, node) in enumerate(found) if not node["best"]][:spare]
        found = [each for at, each in enumerate(found) if each[1]["best"] or at in set(kept)]
    return found


def _more(search: dict[str, Any]) -> str:
    hidden = len(search["nodes"]) - len(_tree(search))
    return f"… {plural(hidden, 'more step')}: to_frame() has all" if hidden else ""


def _node_html(depth: int, node: dict[str, Any], scale: tuple[float, float]) -> str:
    low, high = scale
    reward = node["reward"]
    share = 0.0 if reward is None or high <= low else (reward - low) / (high - low)
    colour = _FOUND if node["best"] else _GONE
    bar = (
        f'<span style="display:inline-block;width:{_WIDTH}px;flex:none"><span style="display:block;height:8px;'
        f'margin-top:6px;border-radius:2px;width:{max(1, round(_WIDTH * share))}px;background:{colour}"></span></span>'
    )
    dim = "opacity:.6;" if node["state"] == "pruned" else ""
    bold = "font-weight:600;" if node["best"] else ""
    value = f'<span style="flex:none;min-width:3.2em;text-align:right">{_value(reward)}</span>'
    said = f'<span style="overflow-wrap:anywhere">{escape(_said(node))}<i>{escape(_state(node))}</i></span>'
    style = f"display:flex;gap:8px;padding-left:{18 * (depth - 1)}px;{dim}{bold}"
    return f'<div style="{style}">{bar}{value}{said}</div>'


def _said(node: dict[str, Any]) -> str:
    return cut(" ".join(node["text"].split()), _TEXT) or "(no text)"


def _state(node: dict[str, Any]) -> str:
    return "" if node["state"] == "expanded" else f"  ({ENDS.get(node['state'], node['state'])})"


def _value(reward: float | None) -> str:
    return UNKNOWN if reward is None else f"{reward:.3g}"


def _cells(step: dict[str, Any]) -> tuple[str, ...]:
    return (
        count(step["depth"]),
        count(step["branches"]),
        count(step["parents"]),
        count(step["tokens"]),
        size(step["held_bytes"]),
        size(step["alone_bytes"]),
        _value(step["best"]),
        count(step["ended"]),
    )
