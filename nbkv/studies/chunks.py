"""The table of chunk strategies: accuracy, distance to full, compute and time on the same questions.

``make tables`` runs this module on the bundled reader and writes docs/tables/chunks.json and docs/chunks.md; the tests
run a small slice of it.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbkv.families.blend.base import Blend
from nbkv.fidelity import kl
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.models.sampling import Sampling
from nbkv.registry import strategies
from nbkv.session.session import Session
from nbkv.strategy import parse
from nbkv.studies.oracle import ORACLES, oracle
from nbkv.studies.statistics import interval, markdown, verdicts
from nbkv.tasks.evaluate import is_correct
from nbkv.tasks.ledger import ledger

if TYPE_CHECKING:
    from nbkv.tasks.items import Item

SINKS = ("bos", "primer")
BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
PUBLISHED = ("cacheblend", "epic", "prophet", "kvshare", "cachecraft")
LEARNING = ("cachecraft", "kvshare")
OURS = "passage"
SEEDS = (101, 102, 103)
COUNT = 57  # questions of each seed and distance: 513 in all
_ORDER = ("full", *PUBLISHED, OURS, "oracle")
_MEASURED = 32  # items of each cell on which the distance to full is measured


def questions(seeds: Sequence[int], n: int, distances: Sequence[int] = (1, 2, 3)) -> list[Item]:
    """Return ``n`` questions of every seed and distance."""
    return [item for seed in seeds for far in distances for item in ledger(seed=seed, n=n, chunks=8, distance=far)]


def specs(methods: Sequence[str] = ()) -> list[Any]:
    """Return the strategies to measure, one a row: full, plain reuse, published methods and ours by budget, oracles.

    With ``methods``, only these at each budget. An oracle is a function that makes the strategy for one question.
    """
    if methods:
        return [f"{name}(budget={budget})" for name in methods for budget in BUDGETS]
    named = [name for name in (*PUBLISHED, OURS) if name in strategies.names()]
    # how many rows is up to the method itself where its paper has a rule for that: Cache-Craft's CFO, EPIC's first k
    own = [name for name in named if isinstance(one := parse(name), Blend) and one.budget is None]
    return ["full", "cacheblend(budget=0.0)", *specs(named), *own, *(oracle(kind) for kind in ORACLES)]


def measure(
    session: Session,
    items: Sequence[Item],
    rows: Sequence[Any],
    sinks: Sequence[str] = SINKS,
) -> list[dict[str, Any]]:
    """Return one dict a strategy and sink; ``right`` is the list of 0 and 1 in the order of ``items``.

    Strategies take turns on every question; chunks are encoded before the first one asks. ``full`` has no sink.
    """
    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for sink in sinks:
        for number, item in enumerate(items):
            prompt = [*(_chunk(session, text, sink) for text in item.chunks), item.question]
            full = _logits(session, prompt, "full") if number < _MEASURED else None
            for row in rows:
                if row == "full" and sink != sinks[0]:
                    continue
                strategy = row(session, item, prompt) if callable(row) else row
                name = str(strategy)
                cell = cells.setdefault((name, "" if name == "full" else sink), {})
                for key, value in _ask(session, item, prompt, strategy, full).items():
                    cell.setdefault(key, []).append(value)
            session.store.clear()  # the next question has other chunks
            session.chunks.clear()
    return [_summary(name, sink, cell, items) for (name, sink), cell in cells.items()]


def _chunk(session: Session, text: str, sink: str) -> Any:  # noqa: ANN401  (figures)
    name = hashlib.sha256(f"{sink} {text}".encode()).hexdigest()[:16]
    return session.chunks.get(name) or session.chunk(text, name=name, sink=sink)


def _ask(
    session: Session,
    item: Item,
    prompt: list[Any],
    strategy: Any,  # noqa: ANN401  (figures)
    full: Any,  # noqa: ANN401  (figures)
) -> dict[str, float]:
    distance = float("nan")
    if full is not None:
        _meet(session, prompt, strategy)
        distance = kl(full, _logits(session, prompt, strategy))
    _meet(session, prompt, strategy)
    result = session.generate(prompt, strategy=strategy, max_new_tokens=8)
    return {
        "right": float(is_correct(result.text, item.answers)),
        "share": result.compute.share,
        "ttft_s": result.timing.ttft_s,
        "kl": distance,
    }


def _meet(session: Session, prompt: list[Any], strategy: Any) -> None:  # noqa: ANN401  (figures)
    """Let a method that harvests K/V from prompts serve the same chunks once, in reverse order, and nothing before."""
    if str(strategy).startswith(LEARNING):
        session._open().scratch.clear()  # noqa: SLF001
        chunks = prompt[:-1]
        session.generate([*chunks[::-1], prompt[-1]], strategy=strategy, max_new_tokens=1)


def _logits(session: Session, prompt: list[Any], strategy: Any) -> Any:  # noqa: ANN401  (figures)
    """Return the logits ``[V]`` after the prompt; nothing is kept or counted."""
    ctx, built = session._open().for_request(), session._prompt(prompt)  # noqa: SLF001
    run = RequestRun(ctx, parse(strategy), built, Sampling(max_new_tokens=1))
    return follow(run, [0])[0]


def _summary(name: str, sink: str, cell: dict[str, list[float]], items: Sequence[Item]) -> dict[str, Any]:
    right = np.array(cell["right"])
    carried = np.array([item.kind == "carried" for item in items])
    low, high = interval(right[carried])
    far = [value for value in cell["kl"] if value == value]  # noqa: PLR0124  (not measured: NaN)
    return {
        "strategy": name,
        "sink": sink,
        "carried": float(right[carried].mean()),
        "low": low,
        "high": high,
        "local": float(right[~carried].mean()),
        "share": statistics.fmean(cell["share"]),
        "kl": statistics.fmean(far) if far else None,
        "ttft_s": statistics.median(cell["ttft_s"]),
        "right": [int(value) for value in right],
    }


def main(methods: Sequence[str] = (), model: str = "tiny", folder: str = "docs") -> None:
    """Measure the table, or anew the rows of ``methods`` in the one there is, and write it."""
    import nbkv  # noqa: PLC0415

    kept = json.loads((Path(folder) / "tables" / "chunks.json").read_text("utf-8"))["rows"] if methods else []
    with nbkv.load(model, strategy="full") as session:
        write(measure(session, questions(SEEDS, COUNT), specs(methods)), kept, model, Path(folder))


def write(rows: list[dict[str, Any]], kept: list[dict[str, Any]], model: str, out: Path) -> None:
    """Write the JSON and the page of ``rows``, and of those ``kept`` that are not among them."""
    items, at = questions(SEEDS, COUNT), f"{OURS}(budget=0.2)"
    known = {(row["strategy"], row["sink"]) for row in rows}
    rows = [*(row for row in kept if (row["strategy"], row["sink"]) not in known), *rows]
    rows.sort(key=lambda row: (row["sink"], _ORDER.index(row["strategy"].split("(")[0]), row["share"]))
    data = {
        "regime": f"`{model}`, {len(items)} questions on 8 chunks, seeds {SEEDS}, distances 1 to 3",
        "at": at,
        "measured": _MEASURED,
        "rows": rows,
        "verdicts": verdicts(rows, items, PUBLISHED, at),
    }
    (out / "tables").mkdir(parents=True, exist_ok=True)
    (out / "tables" / "chunks.json").write_text(json.dumps(data) + "\n", encoding="utf-8")
    (out / "chunks.md").write_text(markdown(data), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
