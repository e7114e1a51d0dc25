"""The page of edited histories: docs/edited-history.md, all of its figures from docs/tables/edited.json."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from nbkv.studies.history.rivals import RIVALS
from nbkv.studies.history.transcript import CHANGES, STEPS

NAIVE = "cacheblend(budget=0)"
LESS, MORE = "blend(budget=0.05)", "blend(budget=0.45)"  # a third and three times of the default
_TINY = 1e-15  # nats
_PLACE = ("template", "change", "transcript")
_MINE = "`blend`: half behind changes, a quarter the newest, a quarter by its score"
_FIGURES = ("again", "share", "kl", "kl_max", "top1", "floor", "ttft_s", "total_s")


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
        others = {kind.title for kind in RIVALS}
        shown = [row for row in about["changes"] if row["strategy"] not in others]
        cells = dict.fromkeys((row["template"], row["change"], row["strategy"]) for row in shown)
        for template, change, strategy in cells:
            keys = {"template": template, "change": change, "strategy": strategy}
            mean = means([row for row in shown if keys.items() <= row.items()])
            lines.append(f"| {template} | {change} | `{strategy}` | {_cells(mean)} {mean['total_s']:.2f} s |")
        lines += ["", _sentence(shown), "", _farthest(shown), "", *_allotments(about["changes"])]
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


def _farthest(rows: Sequence[dict[str, Any]]) -> str:
    """Return where ``blend`` is farthest from full, in one sentence."""
    worst = max((row for row in rows if row["strategy"] == "blend"), key=lambda row: row["kl"])
    place = {name: worst[name] for name in _PLACE}
    there = {row["strategy"]: row for row in rows if place.items() <= row.items()}
    return (
        f"`blend` is farthest in transcript {worst['transcript'] + 1} of {worst['template']}, {worst['change']}: "
        f"{worst['kl']:.2g} nats, where naive reuse is at {there[NAIVE]['kl']:.2g}, three times its budget at "
        f"{there[MORE]['kl']:.2g}, `epic` at {there['epic']['kl']:.2g}, {there['epic']['again']:.0%} computed again."
    )


def _allotments(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the table of other ways to allot ``blend``'s rows, and in how many histories each is nearer to full."""
    by: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
    for row in rows:
        by.setdefault(row["strategy"], {})[tuple(row[name] for name in _PLACE)] = row
    names = ["blend", *(kind.title for kind in RIVALS if kind.title in by)]
    if len(names) == 1:
        return
    mine = by["blend"]
    kinds = list(dict.fromkeys(place[:2] for place in mine))
    yield "The same number of rows, allotted in other ways: KL by template and change."
    yield ""
    yield f"| rows | {' | '.join(' '.join(kind) for kind in kinds)} | all, over `blend`'s | `blend` nearer | share |"
    yield "|---|" + "---|" * (len(kinds) + 3)
    for name in names:
        theirs = by[name]
        cells = [f"{statistics.fmean(row['kl'] for at, row in theirs.items() if at[:2] == kind):.2g}" for kind in kinds]
        ratios = (math.log(max(row["kl"], _TINY) / max(mine[at]["kl"], _TINY)) for at, row in theirs.items())
        ratio = math.exp(statistics.fmean(ratios))
        nearer = sum(mine[at]["kl"] < row["kl"] for at, row in theirs.items())
        told = ("", "") if name == "blend" else (f"{ratio:.2f} x", f"{nearer} of {len(theirs)}")
        share = statistics.fmean(row["share"] for row in theirs.values())
        label = _MINE if name == "blend" else name
        yield f"| {label} | {' | '.join([*cells, *told])} | {share:.1%} |"
    yield ""


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

**The budget.** It is a share of what is reused; of what is moved within a history a part of that share is recomputed,
as large as the part of what those tokens saw that has changed, between a ninth and a third (`blend`: 1.7 to 5 %; 15 %
of chunks that were encoded alone). A chunk has seen nothing of what stands before it, but what is moved saw all of it
except the change. The rows at a third of the default budget and at three times say what that costs. What is said again,
such as a question that was first asked at the beginning, is computed: its K/V have seen nothing of what now stands
before it.

**Which tokens.** Half of these are those that changes have made most stale: attention falls about inversely with
distance, so `d` tokens behind a place where `m` tokens went or came `log(1 + m / d)` is stale, summed over such places.
A quarter are the newest, since an answer leans on what was said last, and a quarter are what the strategy selects. All
this goes by where tokens stand and stood, so it is the same for every template, and for every strategy that has a
budget; at a budget of 1 all of it is full, at 0 nothing is computed again. Each model's second table has the same
number of rows allotted in other ways, the last answer by message rather than by place among them.
"""
