"""A page for each registered strategy: what the registry knows, what is written by hand, and a prompt it served."""

from __future__ import annotations

import inspect
import re
from dataclasses import MISSING, Field, fields
from typing import Any

import served
import yaml
from pages import ROOT

import nbkv
from nbkv.registry import strategies as registry
from nbkv.strategy import Strategy

_TEXTS = ROOT / "docs" / "strategies"
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
_CLAUSE = re.compile(r"(?<=[.;:])\s+(?=[A-Z`])")
_PAPER = re.compile(r"arXiv (\d{4}\.\d{4,5})")


def names() -> list[str]:
    """Return the strategies that have a page: all that are registered."""
    return registry.names()


def made() -> dict[str, str]:
    """Return every page, the list of all included, by its place on the site."""
    rows = nbkv.strategies().itertuples()
    table = ["| name | family | paper | exact | |", "| --- | --- | --- | --- | --- |"]
    table += [
        f"| [{row.name}]({row.name}.md) | {row.family} | {_linked(row.paper)} | {_yes(row.exact)} | {row.summary} |"
        for row in rows
    ]
    said = (
        "A strategy decides what of a prompt's KV is taken from a store and what is computed. *Exact* means the logits"
        " of the full computation up to rounding. Every approximate strategy equals full at its full budget."
        " [Limits](../limits.md) says when to reuse nothing."
    )
    pages = {f"strategies/{name}.md": _page(name, registry.get(name)) for name in names()}
    return pages | {"strategies/index.md": "\n".join(["# Strategies", "", said, "", *table, ""])}


def _page(name: str, cls: type[Strategy]) -> str:
    settings, text = written(name)
    options = [_option(cls, option, settings) for option in fields(cls)]
    parts = [f"# {name}", f"*{cls.summary or 'a strategy of another package'}*", _facts(cls), text]
    parts += ["## What this implementation does", _docstring(cls)]
    if options:
        parts += ["## Options", "\n".join(["| option | default | meaning |", "| --- | --- | --- |", *options])]
    return "\n\n".join([*parts, served.picture(name, settings.get("served", {})), ""])


def written(name: str) -> tuple[dict[str, Any], str]:
    """Return what is written by hand about a strategy: its settings, and its text; nothing of other packages'."""
    path = _TEXTS / f"{name}.md"
    if not path.is_file():
        return {}, ""
    said = path.read_text(encoding="utf-8")
    front = _FRONT.match(said)
    return (yaml.safe_load(front[1]), said[front.end() :].strip()) if front else ({}, said.strip())


def meaning(cls: type[Strategy], option: str, settings: dict[str, Any]) -> str:
    """Return what an option means: as written by hand, else what the docstrings of the class or its family say."""
    if option in settings.get("options", {}):
        return str(settings["options"][option])
    for kind in cls.__mro__:
        text = re.sub(r"\s+", " ", kind.__dict__.get("__doc__") or "")
        for clause in _CLAUSE.split(text):
            if f"``{option}``" in clause or f"``{option}=" in clause:
                said = clause.replace("``", "`").replace("|", r"\|").removeprefix(f"`{option}`: ")
                return said.strip().removesuffix(";")
    return ""


def _option(cls: type[Strategy], option: Field[Any], settings: dict[str, Any]) -> str:
    given = option.default_factory() if option.default_factory is not MISSING else option.default
    known_as = [f"`{option.name}`", *(f"`{other}`" for other, name in cls.aliases.items() if name == option.name)]
    return f"| {', '.join(known_as)} | `{given!r}` | {meaning(cls, option.name, settings)} |"


def _facts(cls: type[Strategy]) -> str:
    needs = ", ".join(f"`{need}`" for need in cls.needs) or "nothing beyond the full computation"
    rows = [("Exact", _yes(cls.exact)), ("Family", cls.family or "none"), ("Needs of the model", needs)]
    rows += [("Left out of the contract", reason) for reason in cls.contract_exempt.values()]
    head = [f"| Paper | {_linked(cls.paper) or 'none'} |", "| --- | --- |"]
    return "\n".join([*head, *(f"| {what} | {value} |" for what, value in rows)])


def _docstring(cls: type[Strategy]) -> str:
    return inspect.cleandoc(cls.__dict__.get("__doc__") or "").replace("``", "`").replace("\n- ", "\n\n- ", 1)


def _linked(paper: str) -> str:
    return _PAPER.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", paper)


def _yes(exact: object) -> str:
    return "yes" if exact else "no, approximate"
