"""What was recorded, drawn over the grid: the first figures that move, with intervals over repeats, and a caption."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbkv.show.curves import MOST, Curve, Panel, curves
from nbkv.show.stacks import Stack, stacks
from nbkv.sweep.page.findings import main_figures, repeated, settings_of
from nbkv.sweep.page.quantity import flat, is_number, said, scaled, titled, unit_of
from nbkv.sweep.runs import OK

if TYPE_CHECKING:
    from nbkv.show.drawing import Drawing
    from nbkv.sweep.runs import Run

# Student's t for a 95 % interval of the mean, by how many runs there are; 2 from ten on
_T = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31}
_PANELS, _WIDE = 2, 230  # a panel and its names fit on a telephone
_BARS = 2 * MOST


@dataclass(frozen=True)
class GridPlot:
    """A plot of a grid: ``whole`` as one picture, ``panels`` each by itself, for a page that sets them in rows.

    ``caption`` says what lines and bands are, and what was left out.
    """

    whole: Drawing
    panels: tuple[Drawing, ...]
    caption: str


def gridplot(runs: Sequence[Run], units: Mapping[str, str]) -> GridPlot | None:
    """Return the first figures over the grid, with intervals over repeats; None where nothing differs.

    The parameter with the most numbers runs to the right, every other setting is a curve: the six highest of the first
    figure where there are more. A grid without numbers is drawn as bars.
    """
    sound = [run for run in runs if run.status == OK]
    figures = main_figures(sound)[:_PANELS]
    if not figures:
        return None
    free = settings_of(sound)
    numeric = {name: {run.parameters.get(name) for run in sound} for name in free if _all_numbers(sound, name)}
    if not numeric:
        return _bars(sound, figures[0], units)
    along = max(numeric, key=lambda name: len(numeric[name]))
    lines = {name: _lines(sound, _Figure.of(sound, name, units), along, free) for name in figures}
    ordered = sorted(lines[figures[0]], key=lambda curve: -statistics.fmean(curve.y))
    shown = [curve.name for curve in ordered[:MOST]]
    titles = {name: _Figure.of(sound, name, units).title for name in figures}
    drawn = {name: [next(one for one in lines[name] if one.name == each) for each in shown] for name in figures}
    rest = _axes([name for name in free if name != along], sound)
    apart = [f"a line for each {', '.join(rest)}"] if rest else []
    apart += [f"the {MOST} highest of {len(ordered)} by {figures[0]}"] if len(ordered) > len(shown) else []
    if any(curve.low is not None for each in drawn.values() for curve in each):
        apart.append(f"bands: 95 % intervals of the mean over {', '.join(repeated(sound)) or 'repeats'}")
    whole = [Panel(titles[name], drawn[name], x=along) for name in figures]
    return GridPlot(
        curves(f"Over {along}", *whole, columns=1, wide=_WIDE),
        tuple(
            curves(f"{titles[n]} over {along}", Panel("", drawn[n], x=along), columns=1, wide=_WIDE) for n in figures
        ),
        _sentence(apart),
    )


def _bars(runs: Sequence[Run], name: str, units: Mapping[str, str]) -> GridPlot:
    figure, free = _Figure.of(runs, name, units), settings_of(runs)
    values: dict[str, list[float]] = {}
    for run in runs:
        setting = _setting(run, free, runs)
        values.setdefault(setting, []).append(float(flat(run.records)[name]) / figure.scale)
    settings = sorted(((each, statistics.fmean(some)) for each, some in values.items()), key=lambda each: -each[1])
    bars = [Stack(setting, {name: value}) for setting, value in settings[:_BARS]]
    drawn = stacks(f"{name} by {', '.join(_axes(free, runs))}", figure.title, bars, unit=figure.unit)
    left_out = f"the {_BARS} highest of {len(settings)} settings" if len(settings) > _BARS else ""
    means = f"means over {', '.join(repeated(runs))}" if len(settings) < len(runs) else ""
    return GridPlot(drawn, (drawn,), _sentence([left_out, means]))


@dataclass(frozen=True)
class _Figure:
    """A recorded figure, the unit in which it is drawn, and how many of its own make one of that."""

    name: str
    unit: str
    scale: float

    @classmethod
    def of(cls, runs: Sequence[Run], name: str, units: Mapping[str, str]) -> _Figure:
        return cls(name, *scaled([float(flat(run.records)[name]) for run in runs], unit_of(name, units)))

    @property
    def title(self) -> str:
        return titled(self.name, self.unit)


def _lines(runs: Sequence[Run], figure: _Figure, along: str, free: Sequence[str]) -> list[Curve]:
    points: dict[str, dict[float, list[float]]] = {}
    rest = [name for name in free if name != along]
    for run in runs:
        line = points.setdefault(_setting(run, rest, runs), {})
        value = float(flat(run.records)[figure.name]) / figure.scale
        line.setdefault(float(run.parameters[along]), []).append(value)
    made = []
    for name, line in points.items():
        ordered = sorted(line.items())
        means = [statistics.fmean(values) for _, values in ordered]
        spread = [_half_width(values) for _, values in ordered]
        several = any(len(values) > 1 for _, values in ordered)
        least = 0.0 if min(value for _, values in ordered for value in values) >= 0 else -math.inf
        low = [max(least, mean - half) for mean, half in zip(means, spread, strict=True)] if several else None
        high = [mean + half for mean, half in zip(means, spread, strict=True)] if several else None
        made.append(Curve(name, [x for x, _ in ordered], means, low, high))
    return made


def _axes(free: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Return what settings differ in: their parameters ``free``, and their notebooks where there are several."""
    return [*(["notebook"] if len({run.notebook for run in runs}) > 1 else []), *free]


def _setting(run: Run, free: Sequence[str], runs: Sequence[Run]) -> str:
    """Return the values of ``_axes``."""
    stem = [run.notebook.removesuffix(".ipynb")] if len({one.notebook for one in runs}) > 1 else []
    return ", ".join([*stem, *(said(run.parameters[name]) for name in free if name in run.parameters)])


def _sentence(parts: Sequence[str]) -> str:
    joined = "; ".join(filter(None, parts))
    return f"{joined[:1].upper()}{joined[1:]}." if joined else ""


def _half_width(values: Sequence[float]) -> float:
    if len(values) < 2:  # noqa: PLR2004  (one value has no spread)
        return 0.0
    return _T.get(len(values), 2.0) * statistics.stdev(values) / math.sqrt(len(values))


def _all_numbers(runs: Sequence[Run], name: str) -> bool:
    return all(is_number(run.parameters.get(name)) for run in runs)
