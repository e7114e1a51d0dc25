"""Values a notebook keeps for the table of its run: written as a display bundle, read back from the executed file."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nbkv.errors import BadOption
from nbkv.sweep.values import packed, plain, unpacked

if TYPE_CHECKING:
    from nbformat import NotebookNode

MIME, UNITS = "application/vnd.nbkv.record+json", "application/vnd.nbkv.units+json"


def record(*, units: Mapping[str, str] | None = None, **values: Any) -> None:  # noqa: ANN401  (what ``plain`` accepts)
    """Keep ``values`` under their names as this run's records, ``units`` by name where the name does not say them.

    A name that ends in ``_s``, ``_ms``, ``_bytes``, ``_tokens``, ``_per_s`` or ``kl`` says its unit.

    In a notebook they show as one line of text and travel in the notebook file itself, so ``nbkv run`` finds them and
    so does ``nbkv report`` later; a name recorded twice keeps its last value. In a plain Python process there is no
    notebook to keep them in and the call does nothing. Numbers and arrays of numpy and torch, dates and paths are made
    plain. Raises ``BadOption`` for a value of another kind, and for a unit that is no text or of nothing recorded here.
    """
    of_them = _checked(units, values)
    made = {name: plain(name, value) for name, value in values.items()}
    if "IPython" not in sys.modules:
        return
    from IPython.core.getipython import get_ipython  # noqa: PLC0415  (outside IPython there is nothing to show)
    from IPython.display import display  # noqa: PLC0415

    if get_ipython() is None:
        return
    said = {name: f"{name} = {_short(value)} {of_them.get(name, '')}".rstrip() for name, value in made.items()}
    text = f"recorded {', '.join(said.values())}"
    pairs = [[name, packed(value)] for name, value in made.items()]  # notebook files sort the keys of a dict
    display({MIME: pairs, **({UNITS: of_them} if of_them else {}), "text/plain": text}, raw=True)


def recorded(notebook: NotebookNode) -> dict[str, Any]:
    """Return everything an executed notebook has recorded, in order, the last value of each name."""
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found |= {name: unpacked(value) for name, value in output.get("data", {}).get(MIME, [])}
    return found


def units(notebook: NotebookNode) -> dict[str, str]:
    """Return the units that were said in an executed notebook, by the name of what they are of."""
    found: dict[str, str] = {}
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            found |= output.get("data", {}).get(UNITS, {})
    return found


def _checked(units: object, values: Mapping[str, Any]) -> dict[str, str]:
    if units is None:
        return {}
    if not isinstance(units, Mapping) or not all(isinstance(unit, str) for unit in units.values()):
        message = f"units={units!r} is not accepted: a dict of texts by the names recorded with it, {{'ttft': 's'}}"
        raise BadOption(message)
    if unknown := [name for name in units if name not in values]:
        message = (
            f"units of {unknown[0]!r}, which is not recorded with them (recorded: {', '.join(values) or 'nothing'})"
        )
        raise BadOption(message)
    return dict(units)


def _short(value: Any) -> str:  # noqa: ANN401  (any value of a notebook)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
