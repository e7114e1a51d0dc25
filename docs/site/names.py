"""The reference: every public name of the package, from its docstring."""

from __future__ import annotations

import nbkv

_STRATEGIES = """## `nbkv.strategies()` {#nbkv.strategies}

Return a DataFrame of the registered strategies: name, family, paper, exact, options with their defaults, and one line
about each. [Strategies](strategies/index.md) is that table.
"""


def reference() -> str:
    """Return the page; mkdocstrings fills it in."""
    said = "The public names of `nbkv`. Whatever is not here may change without notice.\n"
    return "\n".join(["# Reference", "", said, *(_entry(name) for name in nbkv.__all__)])


def _entry(name: str) -> str:
    """Return the place of one name; of a module what it declares to be public."""
    if name == "strategies":
        return _STRATEGIES
    members = getattr(getattr(nbkv, name), "__all__", None)
    options = f"    options:\n      members: {list(members)}\n" if members else ""
    return f"::: nbkv.{name}\n{options}"
