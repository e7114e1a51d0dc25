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
from nbkv.show.units import seconds
from nbkv.sweep.page.columns import unit_of
from nbkv.sweep.page.downloads import PARQUET, paper_table, write_downloads
from nbkv.sweep.page.findings import chart, flat, headline, run_names, said, sentence
from nbkv.sweep.records import MIME

if TYPE_CHECKING:
    from nbformat import NotebookNode

    from nbkv.sweep.runs import Run, Sweep

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
.wide { overflow-x: auto; } p.found { font-size: 1.15rem; font-weight: 600; }
h1, h2, p { overflow-wrap: anywhere; } a.get { display: inline-block; border: 1px solid var(--line);
  border-radius: 4px; padding: .15rem .6rem; margin: 0 .4rem .4rem 0; text-decoration: none; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; } details { margin: .8rem 0; } summary { cursor: pointer; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { color: var(--dim); font-weight: 600; } td.text, th.text { text-align: left; }
figure { margin: 1rem 0; overflow-x: auto; } img, svg { max-width: 100%; height: auto; }
</style>$library</head><body>
<h1>$title</h1>
<p class="found">$headline</p>
$chart
<p class="dim">$summary</p>
<div class="wide">$table</div>
<p>$downloads</p>
$machines
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
    """Write the files beside the page of ``sweep`` and return it; ``notebooks`` are its executed ones, run by run."""
    names, drawn = run_names(sweep.runs), chart(sweep.runs)
    files = write_downloads(sweep, names, drawn)
    told = zip(sweep.runs, names, notebooks, strict=True)
    alone = len(sweep.runs) == 1  # the headline says it
    sections = [_section(run, name, notebook, "" if alone else sentence(notebook)) for run, name, notebook in told]
    over = "" if drawn is None else f"<figure>{_figure({PLOTLY: json.loads(drawn.figure.to_json())})}</figure>"
    plotted = any("Plotly.newPlot" in section for section in [over, *sections])
    took = sum(run.duration_s for run in sweep.runs)
    count = f"{len(sweep.runs)} run{'s' if len(sweep.runs) > 1 else ''}"
    links = [f'<a class="get" download href="{file}">{html.escape(kind)}</a>' for kind, file in files.items()]
    lacking = "" if "Parquet" in files else f'<span class="dim">Parquet: pip install {PARQUET[0]}</span>'
    return _PAGE.substitute(
        title=html.escape(sweep.folder.name),
        headline=html.escape(headline(sweep.runs, notebooks)),
        chart=over,
        library=f"<script>{_library()}</script>" if plotted else "",
        summary=f"{count}, {len(sweep.failed)} failed, {seconds(took)} in notebooks.",
        table=_table(sweep, names),
        downloads="".join([*links, lacking]),
        machines=_machines(notebooks),
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


def _section(run: Run, name: str, notebook: NotebookNode, found: str) -> str:
    given = ", ".join(f"{key} = {said(value)}" for key, value in (run.seeds | run.parameters).items())
    failed = f'<p class="bad">{html.escape(run.error)}</p>' if run.error else ""
    shown = [f"<p><b>{html.escape(found)}</b></p>"] if found else []
    for heading, group in groupby(figures(notebook), key=itemgetter(0)):
        shown.append(f"<h3>{html.escape(heading)}</h3>")
        shown += [f"<figure>{markup}</figure>" for _, markup in group]
    nested = flat({key: value for key, value in run.records.items() if isinstance(value, dict | list)})
    if nested:
        measured = {key: f"{said(value)} {unit_of(key, run.units)}".strip() for key, value in nested.items()}
        lines = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in measured.items())
        shown.append(f"<details><summary>All figures it recorded</summary><dl>{lines}</dl></details>")
    told = f'{html.escape(given) or "as it stands"} · <a href="{quote(run.path.name)}">executed notebook</a>'
    anchor = html.escape(run.path.stem)
    return f'<h2 id="{anchor}">{html.escape(name)}</h2>\n<p class="dim">{told}</p>{failed}\n{"".join(shown)}'


def _machines(notebooks: list[NotebookNode]) -> str:
    """Return on what the notebooks were run, each machine once."""
    known: list[dict[str, str]] = []
    for notebook in notebooks:
        about = dict(notebook.metadata.get("nbkv", {}).get("machine", {}))
        known += [about] if about and about not in known else []
    shown = "".join(map(_terms, known)) or "<p>It was not noted.</p>"
    return f"<details><summary>Machine and versions</summary>{shown}</details>"


def _terms(values: dict[str, str]) -> str:
    lines = (f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in values.items())
    return f"<dl>{''.join(lines)}</dl>"


def _table(sweep: Sweep, names: list[str]) -> str:
    """Return a row a run: its name, what it recorded in plain numbers and words, how long it took."""
    frame = paper_table(sweep, names)
    columns = [*frame.columns, "seconds", *(["error"] if sweep.failed else [])]
    texts = {name for name in frame.columns if not all(map(_looks_like_number, frame[name]))} | {"error"}
    head = "".join(f"<th{_kind(name in texts)}>{html.escape(name)}</th>" for name in columns)
    lines = []
    for run, row in zip(sweep.runs, frame.to_dict("records"), strict=True):
        row |= {"seconds": f"{run.duration_s:.1f}", "error": run.error}
        cells = [f"<td{_kind(name in texts)}>{html.escape(str(row[name]))}</td>" for name in columns]
        cells[0] = f'<td class="text"><a href="#{html.escape(run.path.stem)}">{html.escape(str(row["run"]))}</a></td>'
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _looks_like_number(text: str) -> bool:
    return not text or bool(re.fullmatch(r"-?[\d.]+(e[+-]?\d+)?", text))


def _kind(text: bool) -> str:  # noqa: FBT001
    return ' class="text"' if text else ""


def _joined(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "".join(value)


def _library() -> str:
    from plotly.offline import get_plotlyjs  # noqa: PLC0415  (slow to import)

    return str(get_plotlyjs())
