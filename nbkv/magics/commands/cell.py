"""What the magics share: a notebook's sessions and variables, and how what they found is kept and shown."""

from __future__ import annotations

from collections.abc import Callable
from keyword import iskeyword
from typing import TYPE_CHECKING, TypeVar

from IPython.core.magic import Magics

from nbkv.errors import BadOption
from nbkv.magics.complete import matcher
from nbkv.magics.options import option
from nbkv.magics.progress import CellOutput, CellProgress
from nbkv.magics.sessions import Sessions
from nbkv.magics.template import spelled
from nbkv.magics.views import Views
from nbkv.stopping import interruption

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from nbkv.lab import Lab
    from nbkv.session.chat import Chat

Kept = TypeVar("Kept")
LAST = "_kv"  # the notebook's variable for the last Result or Comparison
STRATEGY = option("-s", "--strategy", kind="strategy", help="a strategy, as name or name(option=value)")


class CellMagics(Magics):
    """Magics over one set of sessions; what a cell has shown while it ran is not shown again at its end."""

    def __init__(self, shell: InteractiveShell) -> None:
        """Start without a session."""
        super().__init__(shell)
        self.shell: InteractiveShell = shell
        self.sessions = Sessions()
        self.shown = Views(shell)
        self.progress = CellProgress(shell)
        self.chats: dict[str, Chat] = {}  # by the name of their session
        self.on_screen: object = None  # what the running cell has shown already: it need not be shown again
        self.matcher = matcher(self)
        self.lab: Lab | None = None  # the panel's other end, where there is a front end

    def after_cell(self, _: object = None) -> None:
        """Bring views up to date; what the cell has shown may be shown again from now on."""
        self.on_screen = None
        self.shown.after_cell()

    def _long(self, work: Callable[[], Kept]) -> Kept:
        """Do long work with its progress in view; what it has found takes the place of that, also at an interrupt."""
        with self.progress.asked() as output:
            try:
                found = work()
            except KeyboardInterrupt as stop:
                if (partial := getattr(stop, "result", None)) is not None:
                    self._keep(partial, None)
                    self._show(partial, output)
                    raise interruption(partial, f"{stop}; {LAST} has what there was") from None
                raise
            self._show(found, output)
        return found

    def _show(self, found: object, output: CellOutput | None) -> None:
        if output is not None:
            data, metadata = self.shell.display_formatter.format(found)  # type: ignore[union-attr]  # every shell has one
            output.draw(data, metadata)
            self.on_screen = found

    def _variables(self) -> dict[str, object]:
        return {name: value for name, value in self.shell.user_ns.items() if name not in {"In", "Out"}}

    def _keep(self, found: Kept, name: str | None) -> Kept:
        self.shell.push({LAST: found}, interactive=False)
        if name is not None:
            self.shell.push({name: found})
        return found


def checked_name(what: str, name: str) -> str:
    """Return ``name`` as Python spells it."""
    if not name.isidentifier() or iskeyword(spelled(name)):
        message = f"{what} needs a plain name of letters, digits and underscores, not {name!r}"
        raise BadOption(message)
    return spelled(name)
