"""The notebook's face: ``%load_ext nbkv`` registers the magics. The only place that knows IPython."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register the magics, their completion and their options."""
    from nbkv.magics.extension import register  # noqa: PLC0415  (IPython is imported only where it is wanted)

    register(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take everything away again and close the sessions that the magics opened."""
    from nbkv.magics.extension import unregister  # noqa: PLC0415  (as above)

    unregister(shell)
