"""Finds strategies: the modules of ``nbkv.strategies``, then the entry-point group of that name for third parties."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from importlib.metadata import entry_points

from nbkv.errors import UnknownName, closest


class Registry:
    """Names and what they stand for; discovers its package on first use."""

    def __init__(self, package: str, what: str) -> None:
        """Watch the modules of ``package``; ``what`` names the kind of thing in messages."""
        self._package = package
        self._what = what
        self._found: dict[str, type] = {}
        self._aliases: dict[str, str] = {}
        self._complete = False

    def add(self, name: str, cls: type) -> None:
        """Register ``cls``; the same class may come again (a notebook cell run twice), a different module's may not."""
        known = self._found.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            message = f"two {self._what} classes claim the name {name!r}: {known.__module__} and {cls.__module__}"
            raise UnknownName(message)
        self._found[name] = cls

    def alias(self, name: str, known: str) -> None:
        """Let ``name`` stand for the one registered as ``known``."""
        self._aliases[name] = known

    def get(self, name: str) -> type:
        """Return what ``name`` stands for, or raise ``UnknownName`` with the known names."""
        self._discover()
        name = self._aliases.get(name, name)
        if name not in self._found:
            known = sorted({*self._found, *self._aliases})
            message = f"unknown {self._what} {name!r}{closest(name, known)} (known: {', '.join(known)})"
            raise UnknownName(message)
        return self._found[name]

    def names(self, *, aliases: bool = False) -> list[str]:
        """Return every registered name, sorted, if asked also other words for them."""
        self._discover()
        return sorted({*self._found, *(self._aliases if aliases else ())})

    def _discover(self) -> None:
        if self._complete:
            return
        self._complete = True
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        for entry in entry_points(group=self._package):
            try:
                entry.load()
            except Exception as error:  # noqa: BLE001  (another package's mistake must not take ours down)
                warnings.warn(f"nbkv: {self._what} {entry.name!r} is left out: {error}", stacklevel=2)


strategies = Registry("nbkv.strategies", "strategy")
