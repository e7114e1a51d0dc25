"""Values a notebook keeps for the table of its run: written as a display bundle, read back from the executed file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from nbkv.sweep.values import packed, plain, unpacked

if TYPE_CHECKING:
    from nbformat import NotebookNode

MIME = "application/vnd.nbkv.record+json"


def record(**values: Any) -> None:  # noqa: ANN401  (any value that ``plain`` accepts)
    """Keep ``values`` under their names as this run's records.

    In a notebook they show as one line of text and travel in the notebook file itself, so ``nbkv run`` finds them and
    so does ``nbkv report`` later; a name recorded twice keeps its last value. In a plain Python process there is no
    notebook to keep them in and the call does nothing. Numbers and arrays of numpy and torch, dates and paths are made
    plain. Raises ``BadOption`` for a value of another kind.
    """
    made = {name: plain(name, value) for name, value in values.items()}
    if "IPython" not in sys.modules:
        return
    from IPython.core.getipython import get_ipython  # noqa: PLC0415  (outside IPython there is nothing to show)
    from IPython.display import display  # noqa: PLC0415

    if get_ipython() is None:
        return
    text = "recorded " + ", ".join(f"{name} = {_short(value)}" for name, value in made.items())
    pairs = [[name, packed(value)] for name, value in made.items()]  # notebook files sort the keys of a dict
    display({MIME: pairs, "text/plain": text}, raw=True)


def recorded(notebook: NotebookNode) -> dict[str, Any]:
    """Return everything an executed notebook has recorded, in order, the last value of each name."""
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found |= {name: unpacked(value) for name, value in output.get("data", {}).get(MIME, [])}
    return found


def _short(value: Any) -> str:  # noqa: ANN401  (any value of a notebook)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
