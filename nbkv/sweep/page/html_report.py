"""The page of a folder of runs: what was found, one plot over the grid, the table, then the notebooks' own plots."""

from __future__ import annotations

import html
import json
import re
from itertools import groupby
from operator import itemgetter
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nbkv.show.drawing import PLOTLY
from nbkv.show.page import Drawn, table_html, table_width, view
from nbkv.show.units import cut, plural, seconds
from nbkv.sweep.page.downloads import PARQUET, write_downloads
from nbkv.sweep.page.findings import headline, run_names, sentence
from nbkv.sweep.page.gridplot import gridplot
from nbkv.sweep.page.quantity import Column, column, flat, measured, said, unit_of
from nbkv.sweep.records import MIME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nbformat import NotebookNode

    from nbkv.sweep.page.gridplot import GridPlot
    from nbkv.sweep.runs import Run, Sweep

_LONGEST, _WORDS = 160, 24  # letters of a cell, and of one line of it
_HEADING = re.compile(r"^#{1,4} +(.+)$", re.MULTILINE)

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>nbkv: $title</title>
<style>
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #66707a; --line: #d8dde2; --paper: #fff; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --dim: #9aa4ad; --line: #3a4047; --paper: #16181b; --bad: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p.dim { color: var(--dim); } a { color: inherit; } .bad { color: var(--bad); }
p.found { font-size: 1.15rem; font-weight: 600; }
h1, h2, p { overflow-wrap: anywhere; } a.get { display: inline-block; border: 1px solid var(--line);
  border-radius: 4px; padding: .15rem .6rem; margin: 0 .4rem .4rem 0; text-decoration: none; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; } details { margin: .8rem 0; } summary { cursor: pointer; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.nbkv { font-size: 14px; font-family: inherit; }
figure { margin: 1rem 0; overflow-x: auto; } img, svg { max-width: 100%; height: auto; }
.grid { display: flex; flex-wrap: wrap; gap: 0 1.5rem; } .grid figure { flex: 1 1 340px; min-width: 0; margin: 0; }
</style>$library</head><body>
<h1>$title</h1>
<p class="found">$headline</p>
$chart
<p>$summary</p>
<p>$downloads</p>
$table
$machines
$sections
$paint</body></html>
""")

# Plots follow the page's theme: clear paper, text and grid in the ink of the moment. Those of the grid also follow its
# width: their axes grow and shrink, names beside them and figures at the ticks do not.
_PAINT = """<script>
const dark = matchMedia('(prefers-color-scheme: dark)'), most = 560, letter = 6.4;
function paint() {
  for (const plot of document.querySelectorAll('.js-plotly-plot')) {
    const look = {paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)',
                  'font.color': dark.matches ? '#e4e6e8' : '#1c1e21'};
    for (const axis of Object.keys(plot._fullLayout).filter(key => /^[xy]axis\\d*$/.test(key))) {
      look[axis + '.gridcolor'] = look[axis + '.zerolinecolor'] = 'rgba(128,128,128,.3)';
    }
    Plotly.relayout(plot, look);
  }
}
function fit() {
  for (const plot of document.querySelectorAll('.grid .js-plotly-plot')) {
    plot.made ??= {width: plot.layout.width, domain: [...plot.layout.xaxis.domain]};
    const {width, domain: [left, right]} = plot.made;
    const wide = Math.min(plot.closest('figure').clientWidth, Math.max(most, width));
    const area = wide - width * (1 - right + left), look = {width: wide};
    look['xaxis.domain'] = [left * width / wide, (left * width + area) / wide];
    plot.layout.annotations.forEach((note, at) => {
      const size = note.xref === 'paper' ? 15 : note.xref === 'x domain' && note.x < 1 ? 12 : 0;
      const room = note.xref === 'paper' ? wide : area;
      if (size) look[`annotations[${at}].font.size`] = Math.min(size, room / note.text.length / letter * 12);
    });
    Plotly.relayout(plot, look);
  }
}
dark.addEventListener('change', paint);
addEventListener('resize', fit);
addEventListener('load', () => { paint(); fit(); });
</script>
"""


def page(sweep: Sweep, notebooks: list[NotebookNode]) -> str:
    """Write the files beside the page of ``sweep`` and return it; ``notebooks`` are its executed ones, run by run."""
    names, drawn = run_names(sweep.runs), gridplot(sweep.runs, sweep.units)
    files = write_downloads(sweep, names, None if drawn is None else drawn.whole)
    told = zip(sweep.runs, names, notebooks, strict=True)
    alone = len(sweep.runs) == 1  # the headline says it
    parts = [_section(run, name, notebook, "" if alone else sentence(notebook)) for run, name, notebook in told]
    over = "" if drawn is None else _grid(drawn)
    plotted = any("Plotly.newPlot" in part for part in [over, *parts])
    links = [f'<a class="get" download href="{file}">{html.escape(kind)}</a>' for kind, file in files.items()]
    lacking = "" if "Parquet" in files else f'<span class="dim">for Parquet: pip install {PARQUET[0]}</span>'
    return _PAGE.substitute(
        title=html.escape(sweep.folder.name),
        headline=html.escape(headline(sweep.runs, notebooks, sweep.units)),
        chart=over,
        library=f"<script>{_library()}</script>" if plotted else "",
        summary=_summary(sweep),
        table=_table(sweep, names, [bool(part) for part in parts]),
        downloads="".join([*links, lacking]),
        machines=_machines(sweep.runs, notebooks),
        sections="\n".join(filter(None, parts)),
        paint=_PAINT if plotted else "",
    )


def _grid(drawn: GridPlot) -> str:
    panels = [_figure({PLOTLY: json.loads(panel.figure.to_json())}) for panel in drawn.panels]
    told = [html.escape(panel.text) for panel in drawn.panels]
    shown = [
        f'<figure role="img" aria-label="{said}">{panel}</figure>' for said, panel in zip(told, panels, strict=True)
    ]
    caption = f'<p class="dim">{html.escape(drawn.caption)}</p>' if drawn.caption else ""
    return f'<div class="grid">{"".join(shown)}</div>{caption}'


def _summary(sweep: Sweep) -> str:
    """Return how many runs there are, how long they took, and which failed."""
    took = f"{plural(len(sweep.runs), 'run')}, {seconds(sum(run.duration_s for run in sweep.runs))} in notebooks"
    if not sweep.failed:
        return f"{took}; none failed."
    return f'{took}; <a class="bad" href="#{_anchor(sweep.failed[0])}">{len(sweep.failed)} failed</a>.'


def figures(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Return ``(heading, markup)`` for what the cells of an executed notebook show besides text.

    Plots, images and script-free HTML, each under the last heading that stands above it in the notebook.
    """
    shown, heading = [], ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = next(reversed(_HEADING.findall(cell.source)), heading)
        for output in cell.get("outputs", []):
            markup = _figure(output.get("data", {}))
            if markup:
                shown.append((heading, markup))
    return shown


def _figure(data: dict[str, Any]) -> str:
    if MIME in data:
        return ""
    if PLOTLY in data:
        import plotly.io  # noqa: PLC0415  (slow to import)

        figure = {"data": data[PLOTLY].get("data", []), "layout": data[PLOTLY].get("layout", {})}
        return str(plotly.io.to_html(figure, full_html=False, include_plotlyjs=False, validate=False))
    if "image/svg+xml" in data:
        return _joined(data["image/svg+xml"])
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return f'<img alt="" src="data:{kind};base64,{"".join(_joined(data[kind]).split())}">'
    markup = _joined(data.get("text/html", ""))
    return "" if re.search(r"<script|<iframe", markup, re.IGNORECASE) else markup


def _section(run: Run, name: str, notebook: NotebookNode, found: str) -> str:
    """Return what a run showed, below its name; "" where there is no more than its row in the table says."""
    shown = [f'<p class="bad">{html.escape(run.error)}</p>'] if run.error else []
    shown += [f"<p><b>{html.escape(found)}</b></p>"] if found else []
    for heading, group in groupby(figures(notebook), key=itemgetter(0)):
        shown.append(f"<h3>{html.escape(heading)}</h3>")
        shown += [f"<figure>{markup}</figure>" for _, markup in group]
    nested = flat({key: value for key, value in run.records.items() if isinstance(value, dict | list)})
    if nested:
        told = {key: measured(value, unit_of(key, run.units)) for key, value in nested.items()}
        lines = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in told.items())
        shown.append(f"<details><summary>All figures it recorded</summary><dl>{lines}</dl></details>")
    if not shown:
        return ""
    given = _listed(run.seeds | run.parameters)
    link = f'<a href="{quote(run.path.name)}">executed notebook</a>'
    about = f'<p class="dim">{html.escape(given) or "as it stands"} · {link}</p>'
    return f'<h2 id="{_anchor(run)}">{html.escape(name)}</h2>\n{about}\n{"".join(shown)}'


def _anchor(run: Run) -> str:
    return html.escape(run.path.stem)


def _machines(runs: Sequence[Run], notebooks: list[NotebookNode]) -> str:
    """Return on what the notebooks were run, each machine once, and with which seeds of their own."""
    known: list[dict[str, str]] = []
    for notebook in notebooks:
        about = dict(notebook.metadata.get("nbkv", {}).get("machine", {}))
        known += [about] if about and about not in known else []
    shown = "".join(map(_terms, known)) or "<p>It was not noted.</p>"
    drawn = list(dict.fromkeys(_listed(run.seeds) for run in runs if run.seeds))
    seeds = f"<p>Seeds of the notebooks' own: {html.escape('; '.join(drawn))}</p>" if drawn else ""
    return f"<details><summary>Machine, versions and seeds</summary>{shown}{seeds}</details>"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {said(value)}" for key, value in values.items())


def _terms(values: dict[str, str]) -> str:
    lines = (f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in values.items())
    return f"<dl>{''.join(lines)}</dl>"


def _table(sweep: Sweep, names: list[str], told: list[bool]) -> str:
    """Return a row a run: its name, what it recorded in plain numbers and words, how long it took, why it failed.

    The name leads to what the run showed, or where that is nothing (not ``told``) to its notebook.
    """
    plain = [{k: v for k, v in run.records.items() if not isinstance(v, dict | list)} for run in sweep.runs]
    recorded = dict.fromkeys(key for records in plain for key in records)
    columns = [column(key, [records.get(key) for records in plain], unit_of(key, sweep.units)) for key in recorded]
    columns.append(column("took", [round(run.duration_s, 1) for run in sweep.runs], "s"))
    columns += [Column("error", tuple(run.error for run in sweep.runs), numbers=False)] if sweep.failed else []
    head = ["run", *(each.name for each in columns)]
    rows = [
        [cut(cell, _LONGEST) for cell in cells] for cells in zip(names, *(each.cells for each in columns), strict=True)
    ]
    width = table_width([head, *rows], _WORDS)
    for row, run, section in zip(rows, sweep.runs, told, strict=True):
        place = f"#{_anchor(run)}" if section else quote(run.path.name)
        row[0] = Drawn(f'<a href="{place}">{html.escape(row[0])}</a>')
    left = [0, *(at for at, each in enumerate(columns, 1) if not each.numbers)]
    return view(table_html(head, rows, left=left, width=width), "frame")


def _joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def _library() -> str:
    from plotly.offline import get_plotlyjs  # noqa: PLC0415  (slow to import)

    return str(get_plotlyjs())
