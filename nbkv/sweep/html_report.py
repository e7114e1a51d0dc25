"""The page of a folder of runs: one self-contained file with the table and the notebooks' plots, light and dark."""

from __future__ import annotations

import html
import math
import re
from itertools import groupby
from operator import itemgetter
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from nbkv.sweep.records import MIME

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from nbkv.sweep.runs import Run, Sweep

_HEADING = re.compile(r"^#{1,4} +(.+)$", re.MULTILINE)
PLOTLY = "application/vnd.plotly.v1+json"

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
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--dim); font-weight: 600; } td.text, th.text { text-align: left; }
figure { margin: 1rem 0; overflow-x: auto; } img, svg { max-width: 100%; height: auto; }
</style>$library</head><body>
<h1>$title</h1>
<p class="dim">$summary</p>
<div class="wide">$table</div>
$sections
$paint</body></html>
""")

# Plots follow the page's theme: clear paper, text and grid in the ink of the moment.
_PAINT = """<script>
const dark = matchMedia('(prefers-color-scheme: dark)');
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
dark.addEventListener('change', paint);
addEventListener('load', paint);
</script>
"""


def page(sweep: Sweep, notebooks: list[NotebookNode]) -> str:
    """Return the page of ``sweep``, whose executed ``notebooks`` come in the order of its runs."""
    sections = [_section(run, notebook) for run, notebook in zip(sweep.runs, notebooks, strict=True)]
    plotted = any("Plotly.newPlot" in section for section in sections)
    seconds = sum(run.duration_s for run in sweep.runs)
    count = f"{len(sweep.runs)} run{'s' if len(sweep.runs) > 1 else ''}"
    summary = f"{count}, {len(sweep.failed)} failed, {seconds:.1f} s in notebooks. The table as CSV: "
    return _PAGE.substitute(
        title=html.escape(sweep.folder.name),
        library=f"<script>{_library()}</script>" if plotted else "",
        summary=f'{summary}<a href="{sweep.results.name}">{sweep.results.name}</a>.',
        table=_table(sweep),
        sections="\n".join(sections),
        paint=_PAINT if plotted else "",
    )


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


def _section(run: Run, notebook: NotebookNode) -> str:
    given = ", ".join(f"{name} = {_cell(value)}" for name, value in run.parameters.items())
    failed = f'<p class="bad">{html.escape(run.error)}</p>' if run.error else ""
    shown = []
    for heading, group in groupby(figures(notebook), key=itemgetter(0)):
        shown.append(f"<h3>{html.escape(heading)}</h3>")
        shown += [f"<figure>{markup}</figure>" for _, markup in group]
    told = f'{html.escape(given) or "as it stands"} · <a href="{quote(run.path.name)}">executed notebook</a>'
    name = html.escape(run.path.stem)
    return f'<h2 id="{name}">{name}</h2>\n<p class="dim">{told}</p>{failed}\n{"".join(shown)}'


def _table(sweep: Sweep) -> str:
    rows = sweep.rows()
    columns = [name for name in sweep.to_frame().columns if name != "error" or sweep.failed]
    texts = {name for name in columns if any(isinstance(row.get(name), str) for row in rows)}
    head = "".join(f"<th{_kind(name in texts)}>{html.escape(name)}</th>" for name in columns)
    lines = []
    for run, row in zip(sweep.runs, rows, strict=True):
        row["run"] = run.path.stem
        cells = [f"<td{_kind(name in texts)}>{html.escape(_cell(row.get(name, '')))}</td>" for name in columns]
        cells[0] = f'<td class="text"><a href="#{html.escape(run.path.stem)}">{html.escape(run.path.stem)}</a></td>'
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(value: Any) -> str:  # noqa: ANN401  (any value of a notebook)
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    return str(value)


def _kind(text: bool) -> str:  # noqa: FBT001
    return ' class="text"' if text else ""


def _joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def _library() -> str:
    from plotly.offline import get_plotlyjs  # noqa: PLC0415  (slow to import)

    return str(get_plotlyjs())
