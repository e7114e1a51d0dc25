"""The table of edited histories: what has to be computed again after one early change, and how far answers move.

``python -m nbkv.studies.history.table [MODEL [N [HOTPOTQA]]]`` measures one model, writes it into
docs/tables/edited.json beside the others after each cell, goes on where it was stopped, and writes
docs/edited-history.md.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nbkv.prompts.matching import find_matches, rolling_hashes
from nbkv.result import Provenance, Result
from nbkv.session.session import Session
from nbkv.strategy import Strategy
from nbkv.studies.history.rivals import rivals
from nbkv.studies.history.templates import CHATML, LLAMA, NOTES, QWEN, TranscriptTemplate
from nbkv.studies.history.transcript import CHANGES, STEPS, ToolTranscript, changed, transcripts
from nbkv.tasks import hotpotqa

NAIVE = "cacheblend(budget=0)"
LESS, MORE = "blend(budget=0.05)", "blend(budget=0.45)"  # a third and three times of the default
SPECS = ("prefix", NAIVE, "epic", LESS, "blend", MORE)
ROOM = 16  # tokens of an answer
_SAME = 8  # tokens of the shortest run that counts as computed before
_WORDS = 6  # of each real text
_RULES = 4  # how often the system text says its rules: about a third of a prompt
_FIGURES = ("again", "share", "kl", "kl_max", "top1", "floor", "ttft_s", "total_s")


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
    Figures: ``again`` and ``share`` of the prompt (computed once more; token-layers run), ``kl``, ``kl_max``, ``top1``
    and ``floor`` along full's greedy answer, seconds to the first token and in all, ``tokens`` of the prompt.
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
    for template, change in wanted:
        for at, transcript in enumerate(given):
            about = {"template": template.name, "change": change, "transcript": at}
            if not any(about.items() <= row.items() for row in found["changes"]):
                rows = after_change(session, transcript, (template, change), specs)
                found["changes"] += [about | row for row in rows]
                yield
    for spec in specs:
        if all(row["strategy"] != spec for row in found["turns"]):
            found["turns"].append(turn_by_turn(session, given[0], wanted[0][0], spec))
            yield


def means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of the figures of ``rows``; of seconds the medians, of ``kl_max`` the largest."""
    found = {name: statistics.fmean(row[name] for row in rows) for name in _FIGURES}
    found |= {name: statistics.median(row[name] for row in rows) for name in ("ttft_s", "total_s")}
    return found | {"kl_max": max(row["kl_max"] for row in rows), "n": len(rows)}


def markdown(data: dict[str, Any]) -> str:
    """Return the page made from the JSON of all models."""
    lines = [_PREFACE]
    for model, about in data["models"].items():
        lines += [f"## {model}", "", f"Made by `{about['command']}`: {about['regime']}.", ""]
        lines += ["| template | change | strategy | again | share | KL | KL max | top 1 | floor | TTFT | in all |"]
        lines += ["|---|---|---|---|---|---|---|---|---|---|---|"]
        cells = dict.fromkeys((row["template"], row["change"], row["strategy"]) for row in about["changes"])
        for template, change, strategy in cells:
            keys = {"template": template, "change": change, "strategy": strategy}
            mean = means([row for row in about["changes"] if keys.items() <= row.items()])
            lines.append(f"| {template} | {change} | `{strategy}` | {_cells(mean)} {mean['total_s']:.2f} s |")
        lines += ["", _sentence(about["changes"]), ""]
        if not about["turns"]:
            continue
        lines += [f"Twelve turns, the first line changes in each ({STEPS} requests):", ""]
        lines += ["| strategy | again | share | KL | KL max | top 1 | floor | TTFT of all |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        lines += [f"| `{row['strategy']}` | {_cells(row)[:-2]} |" for row in about["turns"]]
        lines += [""]
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> str:
    far = f"{row['kl']:.2g} | {row['kl_max']:.2g} | {row['top1']:.3f} | {row['floor']:.1g}"
    return f"{row['again']:.1%} | {row['share']:.1%} | {far} | {row['ttft_s']:.2f} s |"


def _sentence(rows: Sequence[dict[str, Any]]) -> str:
    """Return what the rows of stripped thinking say, in one sentence."""

    def mean(strategy: str) -> dict[str, Any]:
        return means([row for row in rows if (row["change"], row["strategy"]) == (CHANGES[0], strategy)])

    full, prefix, less, blend, more = (mean(each) for each in ("full", "prefix", LESS, "blend", MORE))
    return (
        f"Where thinking is stripped, `prefix` computes {prefix['again']:.0%} of the prompt again and `blend` "
        f"{blend['again']:.1%}, at a third of its budget {less['again']:.1%}, at three times {more['again']:.1%}. It "
        f"is {blend['kl']:.2g} nats from full, with these budgets {less['kl']:.2g} and {more['kl']:.2g}. First tokens "
        f"come after {full['ttft_s']:.2f} s under `full`, {prefix['ttft_s']:.2f} s under `prefix`, "
        f"{blend['ttft_s']:.2f} s under `blend`, whole answers after {full['total_s']:.2f}, {prefix['total_s']:.2f} "
        f"and {blend['total_s']:.2f} s."
    )


_PREFACE = """# Edited history

An agent's prompt is mostly what was there before. When one early thing of it changes (thinking is stripped, a question
is edited, a tool's result comes in between, a template writes another date), prefix caching ends there, and all behind
it is computed again. Under a chunk strategy nbkv moves what stands behind the change: runs of at least 16 tokens that
an earlier prompt or answer of the session had are found by rolling hash, their keys rotated to where they stand now,
and blended as the strategy does with chunks. What stands before the change stays exact, and so does a prompt in which
nothing has to be moved: it is served by `prefix`, and kept.

```python
chat = session.chat("You are terse.")
chat.send("What is a KV cache?", strategy="blend")
chat.edit(1, "What is a radix tree?")  # later turns stay; role="assistant": the answer
chat.drop_thinking()  # <think>…</think> of all answers so far, as templates strip it
chat.send("Why?", strategy="blend")  # chats look for what was there before by themselves
session.generate(messages, strategy="blend", match="earlier")  # any list of messages; "auto" finds chunks as well
```

K/V that were computed while attending to moved K/V are approximate: they stay with the strategy and the session that
made them, up to a quarter of the store's limit, and no exact strategy reads them. `result.why` names what was not
reused, `result.provenance` and the token map what was moved. In a notebook: `%%kvchat --drop-thinking`,
`%%kvchat --edit 1 --keep-later`.

The transcripts: a system text, a task, twelve calls of a tool with thinking before each, the model's own answer, then
another question. *again*: share of the prompt's tokens that this conversation had computed before and that ran once
more; *share*: token-layers run over prompt x layers, selection included. KL (nats), its maximum and the agreement are
along full's greedy answer, beside the *floor*, full's distance to itself with its prefill split elsewhere; `prefix` is
exact, and naive reuse is `cacheblend(budget=0)`: moved, nothing corrected. Seconds are
medians over the transcripts of a row, the strategies of each one after the other, while other work ran on the same
cores: *share* is what does not depend on that.

**The budget.** It is a share of what is reused; of tokens that are moved within a history a third of it is recomputed
(`blend`: 5 % of them, 15 % of chunks that were encoded alone). A chunk has seen nothing of what stands before it, but
what is moved saw all of it except the change. The rows at a third of the default budget and at three times, which is
what chunks get, say what that costs. What is said again, such as a question that was first asked at the beginning, is
computed: its K/V have seen nothing of what now stands before it.

**Where it is not near.** On SmolLM2 135M, one transcript of 995 tokens with thinking stripped (`qwen`), the next answer
repeats the last one, and that one was decoded with the thinking before it: 1.16 nats for naive reuse, 0.49 for
`blend`, 0.066 at three times its budget, 0.015 for `epic` (22 % computed again); with nothing but the 16 tokens of that
answer run again 0.085, with these first within the budget of `blend` 0.067.
"""


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
