"""Values a notebook keeps for the table of its run: written as a display bundle, read back from the executed file."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from nbkv.errors import BadOption

if TYPE_CHECKING:
    from nbformat import NotebookNode

MIME = "application/vnd.nbkv.record+json"


def record(**values: Any) -> None:  # noqa: ANN401  (any JSON-able value)
    """Keep ``values`` under their names as this run's records.

    In a notebook they show as one line of text and travel in the notebook file itself, so ``nbkv run`` finds them and
    so does ``nbkv report`` later; a name recorded twice keeps its last value. In a plain Python process there is no
    notebook to keep them in and the call does nothing. Raises ``BadOption`` for a value that is neither JSON-able nor a
    numpy or torch scalar.
    """
    plain = {name: _plain(name, value) for name, value in values.items()}
    if "IPython" not in sys.modules:
        return
    from IPython.core.getipython import get_ipython  # noqa: PLC0415  (outside IPython there is nothing to show)
    from IPython.display import display  # noqa: PLC0415

    if get_ipython() is None:
        return
    text = "recorded " + ", ".join(f"{name} = {_short(value)}" for name, value in plain.items())
    display({MIME: list(plain.items()), "text/plain": text}, raw=True)  # pairs: notebook files sort the keys of a dict


def recorded(notebook: NotebookNode) -> dict[str, Any]:
    """Return everything an executed notebook has recorded, in order, the last value of each name."""
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found |= dict(output.get("data", {}).get(MIME, []))
    return found


def _plain(name: str, value: Any) -> Any:  # noqa: ANN401  (any value of a notebook)
    try:
        if hasattr(value, "item"):  # a numpy or torch scalar; arrays of more than one value refuse
            value = value.item()
        json.dumps(value)
    except (TypeError, ValueError, RuntimeError):
        message = f"cannot record {name}: {type(value).__name__} is not a number, a text or a list or dict of these"
        raise BadOption(message) from None
    return value


def _short(value: Any) -> str:  # noqa: ANN401  (any value of a notebook)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
