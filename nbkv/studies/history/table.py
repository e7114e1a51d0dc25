"""The table of edited histories: what has to be computed again after one early change, and how far answers move.

``python -m nbkv.studies.history.table [MODEL [N [HOTPOTQA]]]`` measures one model, writes it into
docs/tables/edited.json beside the others after each cell, goes on where it was stopped, and writes
docs/edited-history.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbkv.prompts.matching import find_matches, rolling_hashes
from nbkv.result import Provenance, Result
from nbkv.session.session import Session
from nbkv.strategy import Strategy
from nbkv.studies.history.page import LESS, MORE, NAIVE, markdown
from nbkv.studies.history.rivals import rivals
from nbkv.studies.history.templates import CHATML, LLAMA, NOTES, QWEN, TranscriptTemplate
from nbkv.studies.history.transcript import CHANGES, STEPS, ToolTranscript, changed, transcripts
from nbkv.tasks import hotpotqa

SPECS = ("prefix", NAIVE, "epic", LESS, "blend", MORE)
ROOM = 16  # tokens of an answer
_SAME = 8  # tokens of the shortest run that counts as computed before
_WORDS = 6  # of each real text
_RULES = 4  # how often the system text says its rules: about a third of a prompt


def computed_before(prompt: Sequence[int], earlier: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which tokens of ``prompt`` (bool ``[n]``) lie in runs of at least 8 that an ``earlier`` sequence had."""
    arrays = [np.array(ids) for ids in earlier]
    found = np.zeros(len(prompt), dtype=np.bool_)
    hashed = [rolling_hashes(ids, _SAME) for ids in arrays]
    for match in find_matches(np.array(prompt), arrays, hashed, _SAME):
        found[match.at : match.at + match.length] = True
    return found


def again(result: Result, before: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    """Return the share of the prompt's tokens that were computed ``before`` and ran once more for ``result``."""
    ran = (result.provenance == Provenance.FRESH) | (result.provenance == Provenance.RECOMPUTED)
    return float((ran & before).mean())


def after_change(
    session: Session,
    transcript: ToolTranscript,
    about: tuple[TranscriptTemplate, str],
    specs: Sequence[str] = SPECS,
) -> list[dict[str, Any]]:
    """Return one row a strategy for the question that follows ``transcript``; ``about`` is the template and the change.

    The transcript itself was served by ``prefix``, so the K/V of all of it, its answer included, are exact and stored.
    With all of ``SPECS`` come the other allotments of ``blend``'s rows. Figures: ``again`` and ``share`` of the prompt
    (computed once more; token-layers run), ``kl``, ``kl_max``, ``top1`` and ``floor`` along full's greedy answer,
    seconds to the first token and in all, ``tokens`` of the prompt.
    """
    template, change = about
    session.tokenizer.chat_template = template.source
    session.store.clear()
    history = changed(transcript, change, template.marks, strips=template.strips)
    then, now = (dict(each) for each in history.variables)
    before = session.generate(history.before, strategy="prefix", max_new_tokens=ROOM, template_kwargs=then)
    options: dict[str, Any] = {"match": "earlier", "max_new_tokens": ROOM, "template_kwargs": now}
    tried: list[str | Strategy] = ["full", *specs, *(rivals(before.token_ids[:-1]) if specs == SPECS else ())]
    table = session.compare(history.asked(before), tried, repeat=1, **options)
    known = computed_before(table.results[0].prompt_ids, [(*before.prompt_ids, *before.token_ids[:-1])])
    return [
        {
            "strategy": spec if isinstance(spec, str) else spec.spec,
            "tokens": len(result.prompt_ids),
            "unchanged": float((result.provenance == Provenance.PREFIX).mean()),
            "again": again(result, known),
            "share": row["compute_share"],
            **{name: row[name] for name in ("kl", "kl_max", "top1", "floor", "ttft_s", "total_s")},
        }
        for spec, row, result in zip(tried, table.rows, table.results, strict=True)
    ]


def turn_by_turn(
    session: Session, transcript: ToolTranscript, template: TranscriptTemplate, spec: str, room: int = 4
) -> dict[str, Any]:
    """Return what the twelve turns of ``transcript`` take where each changes the template's first line (a clock).

    What was moved is moved again in each turn, so errors add up: ``kl`` and the others are those of the last answer,
    ``again`` and ``share`` are of the tokens of all prompts, ``ttft_s`` the sum of all turns.
    """
    session.tokenizer.chat_template = template.source
    session.store.clear()
    seen: list[tuple[int, ...]] = []
    ran, share, tokens, ttft_s, last = 0.0, 0.0, 0, 0.0, None
    for step in range(1, STEPS + 1):
        prompt = transcript.messages(template.marks, thinking=False, steps=step)
        options: dict[str, Any] = {"match": "earlier", "template_kwargs": {"now": f"{9 + step} : 00"}}
        last = session.generate(prompt, strategy=spec, max_new_tokens=room, fidelity=step == STEPS, **options)
        n = len(last.prompt_ids)
        ran += n * again(last, computed_before(last.prompt_ids, seen))
        share += n * last.compute.share
        tokens, ttft_s = tokens + n, ttft_s + last.timing.ttft_s
        seen.append((*last.prompt_ids, *last.token_ids[:-1]))
    assert last is not None  # noqa: S101
    assert last.fidelity is not None  # noqa: S101
    far = {name: getattr(last.fidelity, name) for name in ("kl", "kl_max", "top1", "floor")}
    about = {"template": template.name, "strategy": spec, "tokens": tokens}
    return about | {"again": ran / tokens, "share": share / tokens, "ttft_s": ttft_s} | far


def grid(reader: bool) -> list[tuple[TranscriptTemplate, str]]:  # noqa: FBT001  (which of two lists)
    """Return the templates and changes to measure; the bundled ``reader`` has words of its own only."""
    if reader:
        return [(NOTES, change) for change in CHANGES]
    return [(QWEN, CHANGES[0]), (LLAMA, CHANGES[0]), (CHATML, CHANGES[0]), *((QWEN, each) for each in CHANGES[1:])]


def measure(
    session: Session, given: Sequence[ToolTranscript], found: dict[str, Any], specs: Sequence[str] = SPECS
) -> Iterator[None]:
    """Fill ``found`` with all rows for one model, a step at a time; what it holds already stays.

    ``changes`` for each template, change and transcript, ``turns`` for one template.
    """
    wanted = grid(session.model_name.startswith("tiny"))
    for at, transcript in enumerate(given):
        for template, change in wanted:
            about = {"template": template.name, "change": change, "transcript": at}
            if not any(about.items() <= row.items() for row in found["changes"]):
                rows = after_change(session, transcript, (template, change), specs)
                found["changes"] += [about | row for row in rows]
                yield
    for spec in specs:
        if all(row["strategy"] != spec for row in found["turns"]):
            found["turns"].append(turn_by_turn(session, given[0], wanted[0][0], spec))
            yield


def main(model: str = "tiny", n: int = 2, path: str = "", folder: str = "docs") -> None:
    """Measure ``n`` transcripts on ``model``, with paragraphs of HotpotQA's file at ``path``, and write the table."""
    import nbkv  # noqa: PLC0415

    texts = [
        [*(" ".join(chunk.split()[:_WORDS]) for chunk in item.chunks), item.question]
        for item in (hotpotqa(path, n=n, seed=7) if path else ())
    ]
    out = Path(folder) / "tables" / "edited.json"
    data = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"models": {}}
    with nbkv.load(model, strategy="full") as session:
        given = transcripts(n, results=texts, rules=_RULES)
        about = "paragraphs of HotpotQA as results" if path else "notes as results"
        command = f"python -m nbkv.studies.history.table {'MODEL' if path else model} {n}{' HOTPOTQA' * bool(path)}"
        regime = f"`{session.model_name}`, {n} transcripts, {about}, answers of {ROOM} tokens"
        kept = data["models"].get(session.model_name, {})
        if (kept.get("command"), kept.get("regime")) != (command, regime):
            kept = {"command": command, "regime": regime, "changes": [], "turns": []}
        data["models"][session.model_name] = kept
        for _ in measure(session, given, kept):
            out.write_text(json.dumps(data) + "\n", encoding="utf-8")
    (Path(folder) / "edited-history.md").write_text(markdown(data), encoding="utf-8")


if __name__ == "__main__":
    given_model, given_n, given_path = (*sys.argv[1:], *("tiny", "2", "")[len(sys.argv) - 1 :])
    main(given_model, int(given_n), given_path)
