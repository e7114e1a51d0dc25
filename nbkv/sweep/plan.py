"""What a sweep will run: every notebook with every setting of its parameters, each once."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.errors import BadOption, LoadError, closest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True)
class Job:
    """One run to do: a notebook, the parameters it gets, and the file its executed copy goes to."""

    notebook: Path
    parameters: dict[str, Any]
    output: Path


def settings(grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Return the parameter settings a grid stands for; without a grid one empty setting."""
    if not grid:
        return [{}]
    if isinstance(grid, dict):
        lists = [values if isinstance(values, list | tuple) else [values] for values in grid.values()]
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*lists)]
    if isinstance(grid, list | tuple) and all(isinstance(setting, dict) for setting in grid):
        return [dict(setting) for setting in grid]
    message = f"a grid is {{name: [values]}} or a list of {{name: value}}, got {type(grid).__name__}"
    raise BadOption(message)


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
    declared = {source: declares(source) for source in sources}
    _check_taken(set(fixed).union(*grid), set().union(*declared.values()))
    stems = [source.stem for source in dict.fromkeys(sources)]
    jobs = {}
    for source, setting in itertools.product(sources, grid):
        given = {name: value for name, value in (fixed | setting).items() if name in declared[source]}
        name = _name(source, given, unique=stems.count(source.stem) == 1)
        jobs[name] = Job(source, given, folder / name)
    folder.mkdir(parents=True, exist_ok=True)
    return list(jobs.values())


def declares(path: Path) -> set[str]:
    """Return the names assigned in the cells tagged ``parameters`` of the notebook at ``path``."""
    import nbformat  # noqa: PLC0415  (`record` must not pay for it)

    try:
        notebook = nbformat.read(path, as_version=4)
    except OSError as error:
        message = f"cannot read the notebook {path}: {error.strerror}"
        raise LoadError(message) from None
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError, AttributeError):
        message = f"{path} is no notebook"
        raise LoadError(message) from None
    cells = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    names = set()
    for node in ast.walk(ast.parse("\n".join(cells))):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _name(source: Path, given: dict[str, Any], *, unique: bool) -> str:
    """Return the executed copy's file name: the notebook's own, marked where parameters or a namesake ask for it."""
    if not given and unique:
        return f"{source.stem}.ipynb"
    told = json.dumps([given, None if unique else str(source)], sort_keys=True, default=repr)
    return f"{source.stem}-{hashlib.sha256(told.encode()).hexdigest()[:8]}.ipynb"


def _check_taken(asked: set[str], declared: set[str]) -> None:
    for name in sorted(asked - declared):
        known = sorted(declared)
        message = (
            f"no notebook has a parameter {name!r}{closest(name, known)} (they have: {', '.join(known) or 'none'})"
        )
        raise BadOption(message)
