"""Adds the magics to a shell, and takes away all that was added."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from nbkv.lab import Lab
from nbkv.magics.commands import KVMagics
from nbkv.magics.options import HELP
from nbkv.magics.sessions import Sessions
from nbkv.magics.stream_output import has_front_end

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_set_aside: WeakKeyDictionary[InteractiveShell, Sessions] = WeakKeyDictionary()
_NAME = KVMagics.__name__
_RESULT = ("nbkv.result", "Result")


def register(shell: InteractiveShell) -> None:
    """Add magics, completion and a printer of streamed results; a second time changes nothing."""
    if _NAME in shell.magics_manager.registry:
        return
    magics = KVMagics(shell)
    magics.sessions = _set_aside.pop(shell, magics.sessions)
    shell.register_magics(magics)
    shell.Completer.custom_matchers.append(magics.matcher)
    shell.input_transformers_cleanup.insert(0, help_without_cell)
    shell.events.register("post_run_cell", magics.shown.after_cell)
    _plain_text(shell).for_type_by_name(*_RESULT, _printer(magics))
    if has_front_end(shell) and os.environ.get("NBKV_PANEL") != "off":
        magics.lab = _open_lab(shell)


def unregister(shell: InteractiveShell) -> None:
    """Take away what ``register`` added, and close the sessions that magics loaded once the cell has ended.

    Until then ``register`` takes them over: so ``%reload_ext`` keeps them.
    """
    magics = shell.magics_manager.registry.pop(_NAME, None)
    if magics is None:
        return
    shell.events.unregister("post_run_cell", magics.shown.after_cell)
    magics.shown.close()
    _close_later(shell, magics.sessions)
    for kind, names in magics.magics.items():
        for name in names:
            shell.magics_manager.magics[kind].pop(name, None)
    shell.configurables.remove(magics)  # IPython has put it there, for %config
    shell.Completer.custom_matchers.remove(magics.matcher)
    shell.input_transformers_cleanup.remove(help_without_cell)
    _plain_text(shell).pop(".".join(_RESULT), None)
    if magics.lab is not None:
        shell.events.unregister("pre_run_cell", magics.lab.before_cell)
        magics.lab.close()


def _close_later(shell: InteractiveShell, sessions: Sessions) -> None:
    """Set ``sessions`` aside, and close them behind the present cell unless somebody has taken them over."""
    _set_aside[shell] = sessions

    def close(_: object) -> None:
        shell.events.unregister("post_run_cell", close)
        if _set_aside.get(shell) is sessions:
            _set_aside.pop(shell).close_loaded()

    shell.events.register("post_run_cell", close)


def help_without_cell(lines: list[str]) -> list[str]:
    """Let ``%%kvgen -h`` work without a text below it, which IPython would ask for."""
    first, *rest = lines or [""]
    if first.startswith("%%kv") and set(HELP) & set(first.split()) and not "".join(rest).strip():
        return [first[1:]]
    return lines


def _open_lab(shell: InteractiveShell) -> Lab:
    """Let a JupyterLab panel see the sessions; the kernel's loop does what has to wait for the cell to end."""
    lab = Lab(later=shell.kernel.io_loop.add_callback)  # type: ignore[attr-defined]  # a shell with a front end has one
    lab.open()
    shell.events.register("pre_run_cell", lab.before_cell)
    return lab


def _plain_text(shell: InteractiveShell) -> Any:  # noqa: ANN401  (IPython's formatters are untyped)
    return shell.display_formatter.formatters["text/plain"]  # type: ignore[union-attr]  # every shell has one


def _printer(magics: KVMagics) -> Any:  # noqa: ANN401  (IPython's pretty printers are untyped)
    def show(result: Any, printer: Any, cycle: bool) -> None:  # noqa: ANN401, ARG001, FBT001  (as IPython calls a printer)
        from nbkv.show import result_summary  # noqa: PLC0415  (a result exists, so it is imported)

        stands_above = result is magics.streamed
        magics.streamed = None
        printer.text(f"[{result_summary(result.to_dict())}]" if stands_above else repr(result))

    return show
