"""What a folder of runs found: readable names, the figure that moves, its plot over the grid, and one sentence."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbkv.show.curves import MOST, Curve, Panel, curves
from nbkv.show.stacks import Stack, stacks
from nbkv.sweep.runs import OK

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from nbkv.show.drawing import Drawing
    from nbkv.sweep.runs import Run

REPEATS = frozenset({"seed", "seeds", "repeat"})  # what is averaged over
# Student's t for a 95 % interval of the mean, by how many runs there are; 2 from ten on
_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31}
_PANELS, _WIDE = 2, 230  # a panel and its names fit on a telephone


def varying(runs: Sequence[Run]) -> list[str]:
    """Return the parameters that differ between runs, in their order."""
    names = dict.fromkeys(name for run in runs for name in run.parameters)
    return [name for name in names if len({repr(run.parameters.get(name)) for run in runs}) > 1]


def run_names(runs: Sequence[Run]) -> list[str]:
    """Return what tells each run from the others: its notebook where several were run, and what varies."""
    several = len({run.notebook for run in runs}) > 1
    names = []
    for run in runs:
        given = [f"{name} {said(run.parameters[name])}" for name in varying(runs) if name in run.parameters]
        stem = run.notebook.removesuffix(".ipynb")
        names.append(" · ".join([*([stem] if several or not given else []), ", ".join(given)]).strip(" ·"))
    return names


def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Return ``values`` with what is nested in dicts under names of its own: ``kl`` of ``h2o`` is ``kl h2o``."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        full = f"{before} {name}".strip()
        found |= flat(value, full) if isinstance(value, dict) else {full: value}
    return found


def said(value: Any) -> str:  # noqa: ANN401  (any value of a notebook)
    """Return ``value`` as people read it: no dicts, brackets or quotes, numbers with four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {said(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(said, value))
    return "" if value is None else str(value)


def sentence(notebook: NotebookNode) -> str:
    """Return the last sentence of an executed notebook, from its cell tagged ``conclusion``; "" if it has none."""
    told = ""
    for cell in notebook.cells:
        if "conclusion" in cell.metadata.get("tags", ()):
            for output in cell.get("outputs", ()):
                text = output.get("data", {}).get("text/markdown", "")
                told = (text if isinstance(text, str) else "".join(text)) or told
    return re.sub(r"\*\*|`", "", told).strip()


def headline(runs: Sequence[Run], notebooks: Sequence[NotebookNode]) -> str:
    """Return in a sentence what was found: of one run what its notebook ends in, of a grid from where to where."""
    sound = [run for run in runs if run.status == OK]
    told = [each for each in map(sentence, notebooks) if each]
    if len(sound) == 1 and told:
        return told[0]
    names = main_figures(sound)
    if not names:
        return f"{len(sound)} of {len(runs)} runs reached their end; no recorded figure differs between them."
    name, settings = names[0], by_setting(sound, names[0])
    low, high = min(settings, key=lambda each: each[1]), max(settings, key=lambda each: each[1])
    mean = ", a mean over repeats" if len(settings) < len(sound) else ""
    return f"{name} goes from {said(low[1])} ({low[0]}) to {said(high[1])} ({high[0]}){mean}."


def main_figures(runs: Sequence[Run]) -> list[str]:
    """Return the recorded numbers that differ between runs, in the order in which they were recorded."""
    if len(runs) < 2:  # noqa: PLR2004  (one run varies nothing)
        return []
    flats = [flat(run.records) for run in runs]
    names = dict.fromkeys(name for records in flats for name in records)
    numbers = [name for name in names if all(_is_number(records.get(name)) for records in flats)]
    return [name for name in numbers if len({records[name] for records in flats}) > 1]


def by_setting(runs: Sequence[Run], name: str) -> list[tuple[str, float]]:
    """Return each setting's name and the mean of the figure ``name`` over its repeats."""
    free = [each for each in varying(runs) if each not in REPEATS]
    several = len({run.notebook for run in runs}) > 1
    groups: dict[str, list[float]] = {}
    for run in runs:
        told = [f"{each} {said(run.parameters[each])}" for each in free if each in run.parameters]
        stem = run.notebook.removesuffix(".ipynb")
        key = ", ".join([*([stem] if several or not told else []), *told])
        groups.setdefault(key, []).append(float(flat(run.records)[name]))
    return [(setting, statistics.fmean(values)) for setting, values in groups.items()]


def chart(runs: Sequence[Run]) -> Drawing | None:
    """Return the first figures over the grid, with intervals over repeats; None where nothing differs.

    The parameter with the most numbers runs to the right, every other setting is a curve: the six highest where there
    are more. A grid without numbers is drawn as bars.
    """
    sound = [run for run in runs if run.status == OK]
    figures = main_figures(sound)[:_PANELS]
    if not figures:
        return None
    free = [name for name in varying(sound) if name not in REPEATS]
    numeric = {name: {run.parameters.get(name) for run in sound} for name in free if _all_numbers(sound, name)}
    if not numeric:
        name = figures[0]
        bars = sorted(by_setting(sound, name), key=lambda each: -each[1])[: 2 * MOST]
        return stacks(f"{name} by setting", name, [Stack(setting, {name: max(0.0, value)}) for setting, value in bars])
    along = max(numeric, key=lambda name: len(numeric[name]))
    panels = [Panel(name, _lines(sound, name, along, free), x=along) for name in figures]
    return curves(f"Over {along}", *panels, columns=1, wide=_WIDE)


def _lines(runs: Sequence[Run], figure: str, along: str, free: Sequence[str]) -> list[Curve]:
    points: dict[str, dict[float, list[float]]] = {}
    for run in runs:
        rest = [said(run.parameters[name]) for name in free if name != along and name in run.parameters]
        line = points.setdefault(", ".join(rest) or figure, {})
        line.setdefault(float(run.parameters[along]), []).append(float(flat(run.records)[figure]))
    made = []
    for name, line in points.items():
        ordered = sorted(line.items())
        means = [statistics.fmean(values) for _, values in ordered]
        spread = [_half_width(values) for _, values in ordered]
        repeated = any(len(values) > 1 for _, values in ordered)
        least = 0.0 if min(value for _, values in ordered for value in values) >= 0 else -math.inf
        low = [max(least, mean - half) for mean, half in zip(means, spread, strict=True)] if repeated else None
        high = [mean + half for mean, half in zip(means, spread, strict=True)] if repeated else None
        made.append(Curve(name, [x for x, _ in ordered], means, low, high))
    return sorted(made, key=lambda curve: -statistics.fmean(curve.y))[:MOST]


def _half_width(values: Sequence[float]) -> float:
    if len(values) < 2:  # noqa: PLR2004  (one value has no spread)
        return 0.0
    return _T.get(len(values), 2.0) * statistics.stdev(values) / math.sqrt(len(values))


def _all_numbers(runs: Sequence[Run], name: str) -> bool:
    return all(_is_number(run.parameters.get(name)) for run in runs)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
