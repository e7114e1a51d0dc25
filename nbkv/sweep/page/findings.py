"""What a folder of runs found: readable names, the figures that move, and one sentence."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nbkv.show.units import plural
from nbkv.sweep.page.quantity import flat, is_number, measured, said, unit_of
from nbkv.sweep.runs import OK

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from nbkv.sweep.runs import Run

REPEATS = frozenset({"seed", "seeds", "repeat"})  # what is averaged over


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


def sentence(notebook: NotebookNode) -> str:
    """Return the last sentence of an executed notebook, from its cell tagged ``conclusion``; "" if it has none."""
    told = ""
    for cell in notebook.cells:
        if "conclusion" in cell.metadata.get("tags", ()):
            for output in cell.get("outputs", ()):
                text = output.get("data", {}).get("text/markdown", "")
                told = (text if isinstance(text, str) else "".join(text)) or told
    return re.sub(r"\*\*|`", "", told).strip()


def headline(runs: Sequence[Run], notebooks: Sequence[NotebookNode], units: Mapping[str, str]) -> str:
    """Return in a sentence what was found: of one run what its notebook ends in, of a grid from where to where."""
    sound = [run for run in runs if run.status == OK]
    told = [each for each in map(sentence, notebooks) if each]
    if len(sound) == 1 and told:
        return told[0]
    if not sound:
        return f"No run reached its end. {_failures(runs)}"
    names = main_figures(sound)
    if not names:
        return f"{len(sound)} of {plural(len(runs), 'run')} reached the end; no recorded figure differs between them."
    name, settings = names[0], by_setting(sound, names[0])
    low, high = min(settings, key=lambda each: each[1]), max(settings, key=lambda each: each[1])
    mean = f", means over {', '.join(repeated(sound))}" if len(settings) < len(sound) else ""
    ends = [f"{measured(value, unit_of(name, units))} ({setting})" for setting, value in (low, high)]
    return f"{name} goes from {ends[0]} to {ends[1]}{mean}."


def _failures(runs: Sequence[Run]) -> str:
    errors = [*dict.fromkeys(run.error for run in runs)]
    return errors[0] if len(errors) == 1 else f"The first one: {errors[0]}"


def main_figures(runs: Sequence[Run]) -> list[str]:
    """Return the recorded numbers that differ between runs, in the order in which they were recorded."""
    if len(runs) < 2:  # noqa: PLR2004  (one run varies nothing)
        return []
    flats = [flat(run.records) for run in runs]
    names = dict.fromkeys(name for records in flats for name in records)
    numbers = [name for name in names if all(is_number(records.get(name)) for records in flats)]
    return [name for name in numbers if len({records[name] for records in flats}) > 1]


def repeated(runs: Sequence[Run]) -> list[str]:
    """Return what is averaged over: the parameters of repeats that differ between runs."""
    return [name for name in varying(runs) if name in REPEATS]


def settings_of(runs: Sequence[Run]) -> list[str]:
    """Return the parameters that make a setting: those that differ between runs and are no repeats."""
    return [name for name in varying(runs) if name not in REPEATS]


def by_setting(runs: Sequence[Run], name: str) -> list[tuple[str, float]]:
    """Return each setting's name and the mean of the figure ``name`` over its repeats."""
    free = settings_of(runs)
    several = len({run.notebook for run in runs}) > 1
    groups: dict[str, list[float]] = {}
    for run in runs:
        told = [f"{each} {said(run.parameters[each])}" for each in free if each in run.parameters]
        stem = run.notebook.removesuffix(".ipynb")
        key = ", ".join([*([stem] if several or not told else []), *told])
        groups.setdefault(key, []).append(float(flat(run.records)[name]))
    return [(setting, statistics.fmean(values)) for setting, values in groups.items()]
