"""Commands about experiments: the demo, notebooks as experiments, and the page of what has run."""

from __future__ import annotations

import argparse
import ast
import math
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.cli.answers import FAILED, OK, say, width
from nbkv.errors import LoadError

if TYPE_CHECKING:
    from nbkv.sweep import Sweep

_QUICKSTART = "00_quickstart.ipynb"
_LONGEST = 48  # characters of a cell

# What the quickstart records, as the demo shows it; anything else it records is shown as it is.
_DEMO = {
    "hit_rate": ("hit rate", "{:.1%}"),
    "ttft_full_s": ("time to first token, computed in full (s)", "{:.3f}"),
    "ttft_reuse_s": ("time to first token, with reuse (s)", "{:.3f}"),
    "speedup": ("speedup", "{:.1f} x"),
    "identical": ("same answer as in full", "{}"),
    "correct": ("questions answered right", "{:.0%}"),
    "chat_model": ("who talked in the chat", "{}"),
    "chat_hit_rate": ("hit rate of the chat's last turn", "{:.1%}"),
}


def demo(options: argparse.Namespace) -> int:
    """Run the quickstart notebook on the bundled model; show what reuse did to the time to first token."""
    from nbkv.sweep import run

    # the same everywhere, and in a minute: whatever pretrained models there are
    sweep = run(quickstart(), {"chat_model": "tiny"}, out_dir=options.out, rerun=True)
    if not sweep.failed:
        say(_demo_table(sweep.runs[0].records))
    say(f"report: {sweep.report}")
    return FAILED if sweep.failed else OK


def run_notebooks(options: argparse.Namespace) -> int:
    """Execute notebooks, over a grid if one is given, and gather what they record."""
    from nbkv.sweep import read_grid, run

    grid = read_grid(options.grid) if options.grid else None
    parameters = {name: _value(text) for name, text in options.parameter}
    names = ("workers", "scheduler", "timeout", "retries", "rerun")
    sweep = run(options.notebooks, parameters, grid, options.out, **{name: getattr(options, name) for name in names})
    say(_table(sweep))
    say(f"results: {sweep.results}\nreport: {sweep.report}")
    return FAILED if sweep.failed else OK


def report_folder(options: argparse.Namespace) -> int:
    """Write the table and the page of a folder of runs anew."""
    from nbkv.sweep import report

    sweep = report(options.folder)
    say(f"results: {sweep.results}\nreport: {sweep.report}")
    return OK


def quickstart() -> Path:
    """Return the quickstart notebook: the checkout's, or the copy that was installed with the package."""
    path = Path(__file__).resolve().parents[2] / "notebooks" / _QUICKSTART
    if path.is_file():
        return path
    for installed in distribution("nbkv").files or []:
        if installed.name == _QUICKSTART:
            return Path(str(installed.locate())).resolve()
    message = f"{_QUICKSTART} was not installed with nbkv: install nbkv again"
    raise LoadError(message)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``demo``, ``run`` and ``report``."""
    one = commands.add_parser("demo", help="the quickstart notebook on the bundled model")
    one.add_argument("-o", "--out", default="runs/demo", metavar="DIR", help="where the report goes (%(default)s)")
    one.set_defaults(command=demo)

    one = commands.add_parser("run", help="execute notebooks and gather what they record")
    one.add_argument("notebooks", nargs="+", metavar="NOTEBOOK")
    told = "a parameter of the notebooks; may come again"
    one.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("KEY", "VALUE"), help=told)
    told = (
        "name: [values], every combination; below zip: the first of each, the second of each, …; or a list of settings"
    )
    one.add_argument("--grid", metavar="FILE.yaml", help=told)
    where = one.add_mutually_exclusive_group()
    where.add_argument("--workers", type=int, metavar="N", help="as many at once, in processes of this machine")
    where.add_argument("--scheduler", metavar="ADDRESS", help="on the dask cluster at tcp://host:8786, say")
    one.add_argument("--timeout", type=float, metavar="SECONDS", help="a run may take so long (as long as it does)")
    one.add_argument(
        "--retries", type=int, default=0, metavar="N", help="so often a failed run is tried again (%(default)s)"
    )
    one.add_argument("--rerun", action="store_true", help="also what ran to its end before, with the same content")
    one.add_argument("-o", "--out", default="runs", metavar="DIR", help="where results and report go (%(default)s)")
    one.set_defaults(command=run_notebooks)

    one = commands.add_parser("report", help="write results.csv and report.html of a folder anew")
    one.add_argument("folder", metavar="DIR")
    one.set_defaults(command=report_folder)


def _table(sweep: Sweep) -> str:
    """Return what differs between the runs, in columns that are folded where the terminal is too narrow."""
    frame = sweep.to_frame().drop(columns=["notebook", "error"])
    frame["run"] = [Path(name).stem for name in frame["run"]]
    frame = frame.map(_cell)
    return str(frame.to_string(index=False, line_width=width(), na_rep="", max_colwidth=_LONGEST))


def _cell(value: Any) -> Any:  # noqa: ANN401  (any value of a notebook)
    """Return what stands in a table for ``value``: of lists and dicts how many values they have."""
    from nbkv.show.units import plural

    if isinstance(value, (list, tuple, dict)):
        return plural(len(value), "value")
    return f"{value:.4g}" if isinstance(value, float) and not math.isnan(value) else value


def _demo_table(records: dict[str, Any]) -> str:
    lines = [_DEMO.get(name, (name, "{}")) for name in records]
    width = max(len(label) for label, _ in lines)
    values = [form.format(value) for (_, form), value in zip(lines, records.values(), strict=True)]
    return "\n".join(f"{label:<{width}}  {value:>10}" for (label, _), value in zip(lines, values, strict=True))


def _value(text: str) -> Any:  # noqa: ANN401  (a plain value)
    """Return a parameter as Python reads it (``3``, ``1e-3``, ``True``, ``[1, 2]``), or else as the text it is."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
