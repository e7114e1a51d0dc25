"""Prompts that the bundled readers serve while the site is built: where each token's KV came from, as a picture."""

from __future__ import annotations

from functools import cache
from typing import Any

import nbkv
from nbkv.result import Result
from nbkv.show.page import view
from nbkv.show.tokenmap import legend_html, map_html, strip_html
from nbkv.tasks import ledger

_WARM = 3  # prompts before the one that is shown: some strategies learn from them


@cache
def _session(model: str) -> nbkv.Session:
    return nbkv.load(model, device="cpu")


def picture(name: str, settings: dict[str, Any]) -> str:
    """Return the section of ``name``: its last prompt of a few on one set of notes, and the command that shows it.

    ``settings``: another specification (``spec``), another ``model``, ``together`` (the prompts go as one batch), and a
    ``note`` on how to read the picture.
    """
    spec, model = settings.get("spec", name), settings.get("model", "tiny")
    session = _session(model)
    session.store.clear()
    result = _together(session, spec) if settings.get("together") else _last(session, spec)
    told = result.to_dict()
    shown = view(f"{legend_html(told)}{strip_html(told)}{map_html(told)}", "result")
    counts = result.tokens
    said = (
        f"`{spec}` on the bundled reader `{model}`: of {counts.prompt} prompt tokens {counts.reused} were reused, "
        f"{counts.recomputed} recomputed and {counts.fresh} fresh; {result.compute.share:.2f} of the full prefill's "
        f"token-layers were run. {settings.get('note', '')}"
    )
    return f'## A prompt it served\n\n{said}\n\n<div class="nbkv-shot">{_flat(shown)}</div>'


def _flat(html: str) -> str:
    """Return ``html`` without empty lines, at which Markdown would end it."""
    return "".join(line if line.strip() else "" for line in html.splitlines(keepends=True))


def _prompts(session: nbkv.Session) -> list[list[Any]]:
    """Return prompts that share chunks: the first ones in order, the last with two of them changed about."""
    items = ledger(seed=3, n=_WARM + 1, chunks=3, lines=5)
    one, two, three = (session.chunk(text, name=f"notes {n}") for n, text in enumerate(items[0].chunks, 1))
    return [*([one, two, three, item.question] for item in items[:_WARM]), [one, three, two, items[_WARM].question]]


def _last(session: nbkv.Session, spec: str) -> Result:
    results = [session.generate(prompt, strategy=spec, max_new_tokens=6) for prompt in _prompts(session)]
    return results[-1]


def _together(session: nbkv.Session, spec: str) -> Result:
    return session.generate_batch(_prompts(session), strategy=spec, max_new_tokens=6)[-1]
