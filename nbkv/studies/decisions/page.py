"""docs/decisions.md: what docs/tables/decisions.json says, and which methods decide otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

RIVALS = {"random": "random option", "first": "first option", "words": "shared words (BM25)"}
_SAME = 0.05  # of accuracy: how near to full's counts as the same
_ROUNDING = 1e-3
_BROKEN = 0.9  # equal decisions, at the interval's upper end, below which consistency is broken
_TASKS = {
    "currency": "`last_words` of the bundled reader's ledger: which currency a line has, for every other one by a "
    "declaration in an earlier chunk; four options",
    "tool": "`tool_choice`: a request and descriptions of six functions, each a chunk; which one serves it",
    "judge": "`judge`: four sentences of a HotpotQA question's paragraphs, each a chunk, one of which holds the "
    "answer; which one is repeated",
    "rerank": "`session.rerank` over five paragraphs of a HotpotQA question: which one comes first, right if it is a "
    "supporting one",
}


def page(tables: dict[str, Any]) -> str:
    """Return the page made from the JSON of a run."""
    return "\n".join(_page(tables)) + "\n"


def _page(tables: dict[str, Any]) -> Iterator[str]:
    yield """# Decisions under reuse

Made by `python -m nbkv.studies.decisions.table`, with `-n` and `--sinks` where a table has fewer questions or sinks
than that module names. A judge, a router or a re-ranker picks one of a few options. A strategy can be as often right as
full and still pick another option for many questions: what was right becomes wrong, what was wrong right. So *equal*
stands beside *right* here: the share of questions decided as full decides them (judge consistency, arXiv 2601.08343).

A decision is the option whose tokens are likeliest behind the prompt, the sum of their log likelihoods; for `rerank`
the document with the highest score. Brackets are 95 % intervals (Wilson) over the questions: **with so few they are
wide, and a difference within them is none**. *lost*, *won*: questions that full has right and the strategy wrong, and
the other way. *share*: token-layers run over prompt x layers. *moved*: total variation between the options'
probabilities and full's. The word before a strategy is the sink that its chunks were encoded behind, and
`cacheblend(budget=0)` is naive reuse."""
    yield ""
    yield from (f"- {text}" for name, text in _TASKS.items() if any(each["task"] == name for each in tables.values()))
    yield ""
    yield from _verdicts(tables)
    for table in tables.values():
        yield f"\n## {table['task']}, {table['model']}: {table['n']} questions, {table['options']} options"
        yield from _able(table)
        yield "\n| decided by | right | equal to full | lost | won | share | moved |\n|---|---|---|---|---|---|---|"
        yield from (_line(row) for row in table["rows"])


def _line(row: dict[str, Any]) -> str:
    name = RIVALS.get(row["row"], f"`{row['row']}`")
    moved = "" if row["moved"] is None else f"{row['moved']:.3f}"
    right, equal = (_interval(row[key]) for key in ("right", "equal"))
    share = "" if row["row"] in RIVALS else f"{row['share']:.2f}"
    return f"| {name} | {right} | {equal} | {row['lost']} | {row['won']} | {share} | {moved} |"


def _interval(value: list[float]) -> str:
    return f"{value[0]:.2f} ({value[1]:.2f} to {value[2]:.2f})"


def able(table: dict[str, Any]) -> bool:
    """Return whether the model can do the task: the interval of full's accuracy lies above chance."""
    chance = 1 / table["options"] if table["task"] != "rerank" else 2 / table["options"]
    return bool(table["rows"][0]["right"][1] > chance)


def _able(table: dict[str, Any]) -> Iterator[str]:
    if not able(table):
        yield (
            "\nFull itself is not above chance with this many questions: *right* says nothing here, *equal* still does."
        )


def broken(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that are as right as full and decide otherwise more often than the interval excuses.

    None where full is at chance: its accuracy says nothing there.
    """
    if not able(table):
        return []
    full = table["rows"][0]["right"][0]
    own = [row for row in table["rows"][1:] if row["row"] not in RIVALS]
    return [row for row in own if abs(row["right"][0] - full) < _SAME + _ROUNDING and row["equal"][2] < _BROKEN]


def _verdicts(tables: dict[str, Any]) -> Iterator[str]:
    found = [(table, row) for table in tables.values() for row in broken(table)]
    same = f"accuracy as measured within {_SAME} of full's"
    rule = f"{same}, equal decisions below {_BROKEN:.0%} even at the upper end of the interval"
    said = "" if found else " No strategy here, at these numbers of questions."
    yield f"**Equal accuracy, broken consistency** ({rule}):{said}\n"
    for table, row in found:
        right = f"right {row['right'][0]:.2f} (full {table['rows'][0]['right'][0]:.2f})"
        changed = f"equal {_interval(row['equal'])}, {row['lost']} lost and {row['won']} won"
        yield f"- `{row['row']}` on {table['task']}, {table['model']}: {right}, {changed}"
