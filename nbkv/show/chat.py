"""A conversation as text and as HTML: each turn with its answer, where its prompt came from, and what that saved."""

from __future__ import annotations

from html import escape
from typing import Any

from nbkv.show.answer import answer_html
from nbkv.show.mosaic import WIDTH
from nbkv.show.page import bounded, view
from nbkv.show.palette import EDGE, PROVENANCE
from nbkv.show.tokenmap import counted, totals
from nbkv.show.units import cut, plural, seconds, share

MAX_ASKED = 2_000  # bytes of each question shown
MEASURED = "against prompts that were computed whole here"
_ASKED = "border-left:3px solid rgba(128,128,128,.5);padding:2px 10px;margin:10px 0px 4px;white-space:pre-wrap"


def chat_text(chat: dict[str, Any]) -> str:
    """Return the turns and what reuse has saved so far."""
    lines = [f"system: {chat['system']}"] if chat["system"] else []
    for number, turn in enumerate(chat["turns"], start=1):
        lines += [f"{number}> {turn['asked']}", turn["answer"]["text"].strip(), f"[{turn_words(turn)}]"]
    return "\n".join([*lines, saved_words(chat)])


def chat_html(chat: dict[str, Any]) -> str:
    """Return the whole conversation."""
    system = f'<p class="nbkv-dim">{bounded(chat["system"], MAX_ASKED)}</p>' if chat["system"] else ""
    turns = "".join(_turn(number, turn, asked=True) for number, turn in enumerate(chat["turns"], start=1))
    return view(f'{system}{turns}<p role="status"><b>{escape(saved_words(chat))}</b></p>', "chat")


def turn_html(chat: dict[str, Any]) -> str:
    """Return the last turn alone, without its question, which stands in the cell."""
    last = _turn(len(chat["turns"]), chat["turns"][-1], asked=False)
    return view(f'{last}<p role="status"><b>{escape(saved_words(chat))}</b></p>', "chat")


def turn_cards(chat: dict[str, Any]) -> list[dict[str, str]]:
    """Return each turn for a live view: what was asked, as text, and below it the answer as HTML."""
    return [
        {"asked": cut(turn["asked"], MAX_ASKED), "html": view(_turn(number, turn, asked=False), "chat")}
        for number, turn in enumerate(chat["turns"], start=1)
    ]


def turn_words(turn: dict[str, Any]) -> str:
    """Return what of the prompt was reused, and how much sooner the answer began for it."""
    answer = turn["answer"]
    tokens, took = answer["tokens"], seconds(answer["timing"]["ttft_s"])
    instead = f" instead of about {seconds(turn['full_s'])}" if turn["full_s"] is not None and tokens["reused"] else ""
    return (
        f"{tokens['reused']:,} of {plural(tokens['prompt'], 'token')} reused ({share(answer['hit_rate'])}), "
        f"first token after {took}{instead}{'' if turn['exact'] else ', approximate'}"
    )


def saved_words(chat: dict[str, Any]) -> str:
    """Return what all turns have saved, and of how many that is not known."""
    turns = chat["turns"]
    reused = [turn for turn in turns if turn["answer"]["tokens"]["reused"]]
    known = [turn["saved_s"] for turn in reused if turn["saved_s"] is not None]
    if not reused:
        return f"nothing reused yet, so nothing saved ({plural(len(turns), 'turn')})"
    if not known:
        return "what was saved is not known: no prompt of about this length was computed whole here"
    total, missing = sum(known), len(reused) - len(known)
    of = f"; {plural(missing, 'turn')} too long to say" if missing else ""
    if total < 0:
        return f"lost {seconds(-total)} so far: reuse took longer than computing ({MEASURED}{of})"
    return f"saved {seconds(total)} so far ({MEASURED}{of})"


def _turn(number: int, turn: dict[str, Any], *, asked: bool) -> str:
    question = f'<div style="{_ASKED}"><b>{number}</b> {bounded(turn["asked"], MAX_ASKED)}</div>' if asked else ""
    figures = f'<p class="nbkv-dim">turn {number}: {escape(turn_words(turn))}</p>'
    answer = answer_html(turn["answer"]["text"].strip(), markdown=True)
    return f"{question}{answer}{_reuse_bar(turn['answer'])}{figures}"


def _reuse_bar(answer: dict[str, Any]) -> str:
    """Return one bar as long as the prompt, whatever its length: how much was reused and how much run."""
    parts = "".join(
        f'<span style="flex:{n} {n} 0px;background-color:{PROVENANCE[source].colour}"></span>'
        for source, n in totals(answer).items()
        if source != "DROPPED"
    )
    words = escape(f"The {plural(answer['tokens']['prompt'], 'prompt token')}: {counted(answer)}")
    look = f"display:flex;height:8px;max-width:{WIDTH}px;margin:4px 0px;border:1px solid {EDGE}"
    return f'<div role="img" aria-label="{words}" title="{words}" style="{look}">{parts}</div>'
