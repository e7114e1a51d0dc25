"""The table of docs/masks.md: what the wrong mask does to a real model on real text, by notebooks/11_masks.ipynb."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.sweep import run

if TYPE_CHECKING:
    from nbkv.sweep import Run

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK, TABLE = ROOT / "notebooks" / "11_masks.ipynb", ROOT / "docs" / "tables" / "masks.json"
ASKED = {"chunks": 5, "n": 24, "sink": "auto", "strategy": "cacheblend", "longest": 16}
CALLED = {"chunks": "paragraphs", "longest": "tokens", "n": None}  # in the table; how many were asked is a record


def main(data: str, model: str, out: str = "runs/masks", table: Path = TABLE, **asked: Any) -> dict[str, Any]:
    """Run the notebook on ``model`` and the questions of ``data``, write ``table`` and return what it holds.

    Raises ``RuntimeError`` where the notebook ends with an error, such as a mask that changes no logit.
    """
    given = {"model": model, "data": str(Path(data).expanduser().resolve())} | ASKED | asked
    (done,) = run(NOTEBOOK, given, out_dir=out).runs[-1:]
    if done.error:
        message = f"{NOTEBOOK.name} failed: {done.error}"
        raise RuntimeError(message)
    made = tabled(done)
    table.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    return made


def tabled(done: Run) -> dict[str, Any]:
    """Return what a run asked and recorded, by the names of the table; of paths their last part."""
    asked = {CALLED.get(name, name): value for name, value in done.parameters.items()}
    asked |= {name: Path(str(asked[name])).name for name in ("model", "data")}
    return {name: value for name, value in asked.items() if name is not None} | done.records


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
