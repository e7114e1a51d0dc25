"""A Result as text and as HTML: the answer, how far it can be trusted, one line of figures, the token map, notes."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.answer import answer_html
from nbkv.show.badge import badge, badge_html
from nbkv.show.bars import ttft_html
from nbkv.show.page import notes_html, plots, view
from nbkv.show.tokenmap import legend_html, map_html, strip_html
from nbkv.show.units import nats, plural, rate, seconds, share, size

ENDS = {"stop": "stopped by itself", "length": "cut at the length limit", "interrupted": "interrupted"}


def result_text(result: dict[str, Any]) -> str:
    """Return the generated text, a line with the figures, and the notes."""
    notes = [f"[note: {note}]" for note in result.get("notes", ())]
    return "\n".join([result["text"], f"[{result_summary(result)}]", *notes])


def result_summary(result: dict[str, Any]) -> str:
    """Return strategy, honesty, tokens by origin, hit rate, TTFT, speed and end in one line."""
    strategy, *others = figures(result)
    return " · ".join([strategy, honesty(result), *others])


def result_html(result: dict[str, Any]) -> str:
    """Return the whole view, below 200 kB whatever the lengths of prompt and answer."""
    timing = result["timing"]
    bar = plots(ttft_html([("", timing)])) if timing.get("ttft_s") else ""
    shown = " · ".join(f"<span>{escape(part)}</span>" for part in figures(result)[1:])
    more = f"{bar}<p>{escape(details(result))}</p>{notes_html(old_notes(result))}"
    body = [
        answer_html(result["text"], markdown=result.get("markdown", False)),
        f"<p>{badge_html(honesty(result))} <b>{escape(str(result['strategy']))}</b> · {shown}</p>",
        strip_html(result),
        legend_html(result),
        map_html(result),
        notes_html(new_notes(result)),
        f"<details><summary>{folded(result)}</summary>{more}</details>",
    ]
    return view("".join(body), "result")


def honesty(result: dict[str, Any]) -> str:
    """Return how far the answer can be trusted to be full's, in a few words."""
    return badge(result.get("exact", True), result.get("fidelity"))


def new_notes(result: dict[str, Any]) -> list[str]:
    """Return the notes that no earlier answer of the session had."""
    return [note for note in result.get("notes", ()) if note not in result.get("said_before", ())]


def old_notes(result: dict[str, Any]) -> list[str]:
    """Return the notes that an earlier answer of the session had as well."""
    return [note for note in result.get("notes", ()) if note in result.get("said_before", ())]


def folded(result: dict[str, Any]) -> str:
    """Return the name of what is folded away."""
    old = old_notes(result)
    return f"Timing, memory, model and {plural(len(old), 'note')} as before" if old else "Timing, memory and model"


def coming_html(text: str, *, markdown: bool) -> str:
    """Return the view of an answer that is still coming; the complete one begins with the same elements."""
    return view(answer_html(text, markdown=markdown), "result")


def figures(result: dict[str, Any]) -> list[str]:
    """Return strategy, tokens by origin, hit rate, TTFT, speed, end and fidelity, each in words."""
    tokens, timing = result["tokens"], result["timing"]
    generated = len(result["token_ids"])
    speed = 1 / timing["tpot_s"] if timing.get("tpot_s") else None
    parts = [
        str(result["strategy"]),
        f"{tokens['reused']:,} of {plural(tokens['prompt'], 'prompt token')} reused ({share(result['hit_rate'])})",
        f"{tokens['recomputed']:,} recomputed",
        f"{tokens['fresh']:,} fresh",
        f"TTFT {seconds(timing.get('ttft_s'))}",
        rate(speed) if speed else "",
        _decoding(result),
        f"{plural(generated, 'token')}, {ENDS.get(result['finish_reason'], result['finish_reason'])}",
        _fidelity(result),
    ]
    return [part for part in parts if part]


def _decoding(result: dict[str, Any]) -> str:
    decoding = result.get("decoding")
    return f"{decoding['tokens_per_forward']:.2f} tokens a forward" if decoding else ""


def _fidelity(result: dict[str, Any]) -> str:
    fidelity = result.get("fidelity")
    if not fidelity:
        return ""
    return f"largest KL {nats(fidelity['kl_max'])}, top-1 {share(fidelity['top1'])}"


def details(result: dict[str, Any]) -> str:
    """Return what is folded away at first: model, decoding, computed share, memory."""
    timing, compute = result["timing"], result["compute"]
    held = ", ".join(
        f"{size(n_bytes)} {'at its ' if tier == 'peak' else 'in '}{tier}"
        for tier, n_bytes in result.get("kv_bytes", {}).items()
    )
    parts = [
        f"model {result['model']}",
        f"decoding {seconds(timing.get('decode_s'))}",
        f"total {seconds(timing.get('total_s'))}",
        f"computed {share(compute['share'])} of the prompt's token-layers (selection {share(compute['select'])})",
        f"{share(compute['decode'])} more again while decoding" if compute.get("decode") else "",
        f"KV {held}" if held else "",
    ]
    return " · ".join(part for part in parts if part)
