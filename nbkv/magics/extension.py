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
from nbkv.show.progress import ProgressBars, screen

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_set_aside: WeakKeyDictionary[InteractiveShell, Sessions] = WeakKeyDictionary()
_NAME = KVMagics.__name__
_RESULT, _CHAT = ("nbkv.result.result", "Result"), ("nbkv.session.chat", "Chat")
_SHOWN_WHILE_MADE = (
    _RESULT,
    ("nbkv.result.comparison", "Comparison"),
    _CHAT,
    ("nbkv.session.verification.report", "Report"),
    ("nbkv.families.residual.planner", "Plan"),
)


def register(shell: InteractiveShell) -> None:
    """Add magics, completion and a printer of streamed results; a second time changes nothing."""
    if _NAME in shell.magics_manager.registry:
        return
    magics = KVMagics(shell)
    magics.sessions = _set_aside.pop(shell, magics.sessions)
    shell.register_magics(magics)
    shell.Completer.custom_matchers.append(magics.matcher)
    shell.input_transformers_cleanup.insert(0, help_without_cell)
    shell.events.register("post_run_cell", magics.after_cell)
    screen.shown_by = magics.progress
    for name in (_RESULT, _CHAT):
        _plain_text(shell).for_type_by_name(*name, _printer(magics))
    for name in _SHOWN_WHILE_MADE:
        _displays(shell).for_type_by_name(*name, _unless_on_screen(magics))
    if has_front_end(shell) and os.environ.get("NBKV_PANEL") != "off":
        magics.lab = _open_lab(shell)


def unregister(shell: InteractiveShell) -> None:
    """Take away what ``register`` added, and close the sessions that magics loaded once the cell has ended.

    Until then ``register`` takes them over: so ``%reload_ext`` keeps them.
    """
    magics = shell.magics_manager.registry.pop(_NAME, None)
    if magics is None:
        return
    shell.events.unregister("post_run_cell", magics.after_cell)
    magics.shown.close()
    screen.shown_by = ProgressBars()
    _close_later(shell, magics.sessions)
    for kind, names in magics.magics.items():
        for name in names:
            shell.magics_manager.magics[kind].pop(name, None)
    shell.configurables.remove(magics)  # IPython has put it there, for %config
    shell.Completer.custom_matchers.remove(magics.matcher)
    shell.input_transformers_cleanup.remove(help_without_cell)
    for name in (_RESULT, _CHAT):
        _plain_text(shell).pop(".".join(name), None)
    for name in _SHOWN_WHILE_MADE:
        _displays(shell).pop(".".join(name), None)
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
    """Let ``%%kvgen -h`` work without a text below it, and the magic itself say what an empty cell lacks.

    IPython would refuse both, and propose the line magic.
    """
    first, *rest = lines or [""]
    if not first.startswith("%%kv") or "".join(rest).strip():
        return lines
    if set(HELP) & set(first.split()):
        return [first[1:]]
    return [f"{first.rstrip()}\n", "\n"]


def _open_lab(shell: InteractiveShell) -> Lab:
    """Let a JupyterLab panel see the sessions; the kernel's loop does what has to wait for the cell to end."""
    lab = Lab(later=shell.kernel.io_loop.add_callback)  # type: ignore[attr-defined]  # a shell with a front end has one
    lab.open()
    shell.events.register("pre_run_cell", lab.before_cell)
    return lab


def _plain_text(shell: InteractiveShell) -> Any:  # noqa: ANN401  (IPython's formatters are untyped)
    return shell.display_formatter.formatters["text/plain"]  # type: ignore[union-attr]  # every shell has one


def _displays(shell: InteractiveShell) -> Any:  # noqa: ANN401  (IPython's formatters are untyped)
    return shell.display_formatter.ipython_display_formatter  # type: ignore[union-attr]  # every shell has one


def _unless_on_screen(magics: KVMagics) -> Any:  # noqa: ANN401  (as IPython calls a display function)
    """Let what a cell returns be, where its magic has shown it already; ``display`` shows it all the same."""

    def show(found: object) -> None:
        returned = getattr(magics.shell.displayhook, "msg", None) is not None
        if not (returned and found is magics.on_screen):
            raise NotImplementedError  # IPython's word for: show it in the usual way
        magics.on_screen = None

    return show


def _printer(magics: KVMagics) -> Any:  # noqa: ANN401  (IPython's pretty printers are untyped)
    def show(result: Any, printer: Any, cycle: bool) -> None:  # noqa: ANN401, ARG001, FBT001  (as IPython calls a printer)
        from nbkv.result import Result  # noqa: PLC0415  (a result exists, so it is imported)
        from nbkv.show import result_summary  # noqa: PLC0415  (as above)

        stands_above = result is magics.on_screen and not has_front_end(magics.shell)
        magics.on_screen = None
        summary = (
            f"[{result_summary(result.to_dict())}]" if isinstance(result, Result) else f"<{type(result).__name__}>"
        )
        printer.text(summary if stands_above else repr(result))

    return show
