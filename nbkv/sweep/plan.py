"""What a sweep will run: every notebook with every setting of its parameters, each once."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.errors import BadOption, LoadError, closest
from nbkv.sweep.values import literal, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nbformat import NotebookNode

PRODUCT, ZIP = FORMS = ("product", "zip")  # the parts of a grid that has several
PARAMETERS, INJECTED = "parameters", "injected-parameters"  # tags, as papermill has them
_LONGEST = 80  # characters of a run's name
_SEED = re.compile(r"(seeds?) *= *(.+)")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclass(frozen=True)
class Job:
    """One run to do: a notebook, the plain parameters it gets, and the file its executed copy goes to.

    Tables have their rows by ``sequence``: when the sweep began, and which of its jobs this is.
    """

    notebook: Path
    parameters: dict[str, Any]
    output: Path
    cells: int
    sequence: str = ""


def settings(grid: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Return the parameter settings a grid stands for; without a grid one empty setting.

    ``{name: [values]}`` is every combination, ``{"zip": {name: [values]}}`` the first of each, the second of each, and
    so on, ``{"product": {…}, "zip": {…}}`` every combination of both; a list of ``{name: value}`` is just these. Raises
    ``BadOption`` for anything else, and where the lists of a ``zip`` differ in length.
    """
    if not grid:
        return [{}]
    if isinstance(grid, Mapping):
        if set(grid) <= set(FORMS) and all(isinstance(part, Mapping) for part in grid.values()):
            pairs = itertools.product(_product(grid.get(PRODUCT, {})), _zipped(grid.get(ZIP, {})))
            return [product | zipped for product, zipped in pairs]
        return _product(grid)
    if isinstance(grid, list | tuple) and all(isinstance(setting, Mapping) for setting in grid):
        return [{name: plain(str(name), value) for name, value in setting.items()} for setting in grid]
    message = f"a grid is {{name: [values]}} or a list of {{name: value}}, got {type(grid).__name__}"
    raise BadOption(message)


def _product(lists: Mapping[str, Any]) -> list[dict[str, Any]]:
    values = itertools.product(*(_several(str(name), each) for name, each in lists.items()))
    return [dict(zip(lists, each, strict=True)) for each in values]


def _zipped(lists: Mapping[str, Any]) -> list[dict[str, Any]]:
    if not lists:
        return [{}]
    several = {name: _several(str(name), each) for name, each in lists.items()}
    if len({len(each) for each in several.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(each)}" for name, each in several.items())
        message = f"the lists of a zip grid are of one length, got: {lengths}"
        raise BadOption(message)
    return [dict(zip(several, each, strict=True)) for each in zip(*several.values(), strict=True)]


def _several(name: str, values: Any) -> list[Any]:  # noqa: ANN401  (any value of a notebook)
    """Return the values one parameter takes in turn; a text or another single value is one of them."""
    made = plain(name, values)
    return list(made) if isinstance(made, list | tuple) else [made]


def read_grid(path: str | Path) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the grid in a YAML (or JSON) file."""
    import yaml  # noqa: PLC0415  (only for grids)

    try:
        grid = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        message = f"cannot read the grid {path}: {error.strerror}"
        raise LoadError(message) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        message = f"{path} is no YAML: {' '.join(str(error).split())}"
        raise BadOption(message) from None
    settings(grid)
    return grid or {}


def plan(
    notebooks: str | Path | Iterable[str | Path], fixed: dict[str, Any], grid: list[dict[str, Any]], folder: Path
) -> list[Job]:
    """Return the runs to do, each once, after checking that every notebook reads and every parameter has a taker."""
    paths = [notebooks] if isinstance(notebooks, str | Path) else list(notebooks)
    if not paths:
        message = "no notebook given: name at least one .ipynb file"
        raise BadOption(message)
    sources = [Path(path).expanduser().resolve() for path in paths]
    fixed = {name: plain(name, value) for name, value in fixed.items()}
    read = {source: source_notebook(source) for source in sources}
    declared = {source: declares(notebook, source.name) for source, notebook in read.items()}
    _check_taken(set(fixed).union(*grid), set().union(*declared.values()))
    stems = [source.stem for source in dict.fromkeys(sources)]
    jobs = {}
    for source, setting in itertools.product(sources, grid):
        given = {name: value for name, value in (fixed | setting).items() if name in declared[source]}
        name = _name(source, given, unique=stems.count(source.stem) == 1)
        own = sum(not _tagged(cell, INJECTED) for cell in read[source].cells)
        jobs[name] = Job(source, given, folder / name, cells=own + bool(given))
    folder.mkdir(parents=True, exist_ok=True)
    return list(jobs.values())


def source_notebook(path: Path) -> NotebookNode:
    """Return the notebook in a file; raises ``LoadError`` if there is none."""
    import nbformat  # noqa: PLC0415  (`record` must not pay for it)

    try:
        notebook: NotebookNode = nbformat.read(path, as_version=4)
    except OSError as error:
        message = f"cannot read the notebook {path}: {error.strerror}"
        raise LoadError(message) from None
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError, AttributeError):
        message = f"{path} is no notebook"
        raise LoadError(message) from None
    return notebook


def declares(notebook: NotebookNode, called: str) -> set[str]:
    """Return the names assigned in the cells tagged ``parameters`` of ``notebook``, which errors name as ``called``."""
    names: set[str] = set()
    for cell in notebook.cells:
        if _tagged(cell, PARAMETERS):
            names |= _assigned(cell.source, called)
    return names


def own_seeds(notebook: NotebookNode) -> dict[str, Any]:
    """Return the seeds that an executed ``notebook`` has in its parameters cells, as far as they are plain values."""
    found: dict[str, Any] = {}
    for cell in notebook.cells:
        for line in cell.source.splitlines() if _tagged(cell, PARAMETERS) else ():
            if known := _SEED.match(line):
                with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                    found[known[1]] = ast.literal_eval(known[2].partition("#")[0].strip())
    return found


def _assigned(source: str, called: str) -> set[str]:
    """Return the names that a cell assigns, read as IPython reads it: with magics, shell lines and ``?``."""
    from IPython.core.inputtransformer2 import TransformerManager  # noqa: PLC0415  (`record` must not pay for it)

    first, _, rest = source.lstrip().partition("\n")
    code = rest if first.startswith("%%") else source  # a magic such as %%time runs the cell below it
    try:
        tree = ast.parse(TransformerManager().transform_cell(code))
    except SyntaxError as error:
        message = f"a parameters cell of {called} is no Python: {error.msg} (line {error.lineno})"
        raise LoadError(message) from None
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def inject(parameters: Mapping[str, Any], notebook: NotebookNode) -> None:
    """Put a cell that assigns ``parameters`` behind those of ``notebook`` that declare them, as papermill has it.

    The values are written as Python, so that a tuple arrives as a tuple.
    """
    from nbformat.v4 import new_code_cell  # noqa: PLC0415  (`record` must not pay for it)

    notebook.cells = [cell for cell in notebook.cells if not _tagged(cell, INJECTED)]
    if parameters:
        source = "\n".join(["# Parameters", *(f"{name} = {literal(value)}" for name, value in parameters.items())])
        place = 1 + max(at for at, cell in enumerate(notebook.cells) if _tagged(cell, PARAMETERS))
        notebook.cells.insert(place, new_code_cell(source, metadata={"tags": [INJECTED]}))


def _tagged(cell: NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def _name(source: Path, given: dict[str, Any], *, unique: bool) -> str:
    """Return the executed copy's file name: the notebook's own, with its parameters where it has some.

    What a file name cannot hold, or not tell apart from another, is told apart by a short hash.
    """
    if not given and unique:
        return f"{source.stem}.ipynb"
    words = [f"{name}={_word(value)}" for name, value in sorted(given.items())]
    name = "-".join([source.stem, *words])
    if unique and "?" not in name and len(name) <= _LONGEST:
        return f"{name}.ipynb"
    told = literal([sorted(given.items()), None if unique else str(source)])
    cut = name.replace("?", "_")[:_LONGEST].rstrip("-_.")
    return f"{cut}-{hashlib.sha256(told.encode()).hexdigest()[:8]}.ipynb"


def _word(value: Any) -> str:  # noqa: ANN401  (as ``plain`` gives it)
    """Return ``value`` as part of a file name; with a ``?`` where that does not say all of it."""
    if isinstance(value, str):
        shown = _NOT_IN_NAMES.sub("_", value)
        return shown if shown == value and value and not _reads_as_value(value) else f"{shown}?"
    if isinstance(value, bool | int | float) or value is None:
        return repr(value)
    return f"{_NOT_IN_NAMES.sub('_', literal(value)).strip('_')}?"


def _reads_as_value(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text in {"nan", "inf", "-inf"}
    return True


def _check_taken(asked: set[str], declared: set[str]) -> None:
    for name in sorted(asked - declared):
        known = sorted(declared)
        message = (
            f"no notebook has a parameter {name!r}{closest(name, known)} (they have: {', '.join(known) or 'none'})"
        )
        raise BadOption(message)
