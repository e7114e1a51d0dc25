"""The page of what kept attention costs in answers: docs/flashblock.md, and the JSON that it is made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nbkv.studies.flashblock.comparison import TAUS

# What the paper's language models ran with: its released evaluation scripts.
PAPER = {
    "model": "TraDo-8B-Thinking",
    "block": "4 (main table) and 8",
    "strategy": TAUS[1],
    "tau": "2 (script; the yaml's default is 3)",
    "threshold": "none: all heads reuse (head by head is for video: 0.85, 0.9 for quality, at most 0.05 nats of lse)",
    "revealed": "stale",
    "unmask": "dynamic, confidence 0.9, 8 steps",
    "temperature": "1.0",
    "batch": "128, on 4 A100",
}


def write(data: dict[str, Any], out: Path) -> None:
    """Write the JSON and the page of a run."""
    (out / "tables").mkdir(parents=True, exist_ok=True)
    (out / "tables" / "flashblock.json").write_text(json.dumps(data) + "\n", encoding="utf-8")
    (out / "flashblock.md").write_text(markdown(data), encoding="utf-8")


def markdown(data: dict[str, Any]) -> str:
    """Return the page made from the JSON of a run; it tells no times, which the benchmark measures."""
    lines = [
        "# FlashBlock: what kept attention costs in answers",
        "",
        f"Made by `python -m nbkv.studies.flashblock`: {data['regime']}.",
        "*asked*: share of the passes in which the rule reuses; *effective*: share of the attention to finished blocks",
        "(rows x K/V heads x keys, of all layers and passes) that was really taken from an earlier pass, without heads",
        "and rows that are computed again and keys that are read anew. *accuracy* with its difference to full and the",
        "95 % interval of that; KL (nats) and *top-1* of passes against the exact pass on full's way, means over all",
        f"passes of {data['followed']} questions; *tokens*: a pass; *cos* and *lse* (nats): how much kept",
        "attention had changed.",
        *data.get("notes", []),
        "",
        "| strategy | block | unmask | accuracy | difference | tokens | asked | effective | KL | top-1 | cos | lse |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        found = [_cell(row[name], ".2f") for name in ("reuse_rate", "effective_reuse")]
        drift = [_cell(row[name], ".2f") for name in ("drift_cosine", "drift_lse")]
        mark = " (*)" if _is_papers(row) else ""
        lines.append(
            f"| {row['strategy']}{mark} | {row['block']} | {row['unmask']} | {row['accuracy']:.3f} "
            f"| {row['difference']:+.3f} ({row['low']:+.2f} to {row['high']:+.2f}) | {row['tokens_per_forward']:.2f} "
            f"| {' | '.join(found)} | {row['kl']:.1e} | {row['top1']:.3f} | {' | '.join(drift)} |"
        )
    lines += [
        "",
        "(*) The setting of the paper's language models, but for the model, the temperature and the batch:",
        "",
    ]
    lines += [
        "| option | in the paper |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in data["paper"].items()),
    ]
    return "\n".join(lines) + "\n"


def _is_papers(row: dict[str, Any]) -> bool:
    return row["strategy"] == PAPER["strategy"] and row["unmask"].startswith("dynamic") and row["block"] in {4, 8}


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
