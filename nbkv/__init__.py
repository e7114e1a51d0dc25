"""KV-cache reuse for language models, from a Jupyter notebook.

Public names are looked up when first used, so that ``import nbkv`` costs next to nothing and does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nbkv import former_paths

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from IPython.core.interactiveshell import InteractiveShell

    from nbkv import fidelity, tasks
    from nbkv.errors import (
        BadOption,
        BadPrompt,
        LoadError,
        NbkvError,
        OutOfMemory,
        StoreFull,
        StoreUnavailable,
        UnknownName,
        UnsupportedModel,
    )
    from nbkv.result import Chunk, Comparison, Provenance, Result
    from nbkv.session.pipelines.pipeline import Pipeline
    from nbkv.session.session import Session, load
    from nbkv.session.tours.tour import tour
    from nbkv.strategy import Strategy
    from nbkv.sweep import record
    from nbkv.traces import replay

    strategies: Callable[[], pd.DataFrame]  # a package that answers a call

__version__ = "0.1.0"

former_paths.install()

__all__ = [
    "BadOption",
    "BadPrompt",
    "Chunk",
    "Comparison",
    "LoadError",
    "NbkvError",
    "OutOfMemory",
    "Pipeline",
    "Provenance",
    "Result",
    "Session",
    "StoreFull",
    "StoreUnavailable",
    "Strategy",
    "UnknownName",
    "UnsupportedModel",
    "fidelity",
    "load",
    "record",
    "replay",
    "strategies",
    "tasks",
    "tour",
]

_HOME = {
    "Chunk": "nbkv.result",
    "Comparison": "nbkv.result",
    "Pipeline": "nbkv.session.pipelines.pipeline",
    "Provenance": "nbkv.result",
    "Result": "nbkv.result",
    "Session": "nbkv.session",
    "Strategy": "nbkv.strategy",
    "load": "nbkv.session",
    "record": "nbkv.sweep",
    "tour": "nbkv.session.tours.tour",
    "replay": "nbkv.traces",
}
_MODULES = {"fidelity", "strategies", "tasks"}


def __getattr__(name: str) -> Any:  # noqa: ANN401  (PEP 562)
    """Import what a public name stands for, once."""
    if name not in __all__:
        message = f"module 'nbkv' has no attribute {name!r}"
        raise AttributeError(message)
    if name in _MODULES:
        return importlib.import_module(f"nbkv.{name}")
    value = getattr(importlib.import_module(_HOME.get(name, "nbkv.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names, for completion."""
    return sorted([*__all__, "__version__"])


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """Register the magics (``%load_ext nbkv``)."""
    importlib.import_module("nbkv.magics").load_ipython_extension(ipython)


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """Take the magics away again and free what they loaded (``%unload_ext nbkv``)."""
    importlib.import_module("nbkv.magics").unload_ipython_extension(ipython)
