"""Magics of views: running figures, plots, the dashboard, the playground."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from IPython.core.magic import line_magic, magics_class

from nbkv.errors import BadOption
from nbkv.magics.commands.cell import LAST, CellMagics
from nbkv.magics.options import command

if TYPE_CHECKING:
    from nbkv.show import Plot


@magics_class
class ViewMagics(CellMagics):
    """Magics that show what the current session does and did."""

    @line_magic
    @command()
    def kvstats(self, args: Namespace) -> Any:  # noqa: ANN401, ARG002  (an object that shows itself)
        """Show the running figures of the current session."""
        return self.sessions.current.stats

    @line_magic
    @command()
    def kvplot(self, args: Namespace) -> Plot:  # noqa: ARG002  (has no options but -h)
        """Plot the last comparison, or TTFT and hit rate over the requests of the current session."""
        from nbkv.result import Comparison  # noqa: PLC0415  (plots come late)
        from nbkv.show import comparison_plot, history_plot  # noqa: PLC0415

        last = self.shell.user_ns.get(LAST)
        if isinstance(last, Comparison):
            return comparison_plot(last.to_dict())
        rows = self.sessions.current.history().to_dict("records")
        if not rows:
            message = "nothing to plot yet: run a %%kvgen cell first"
            raise BadOption(message)
        return history_plot([{str(key): value for key, value in row.items()} for row in rows])

    @line_magic
    @command()
    def kvdash(self, args: Namespace) -> Any:  # noqa: ANN401, ARG002  (a view, which is None where it stands already)
        """Show the current session's figures while they change, with its strategy and budget at hand."""
        from nbkv.widgets.dashboard import Dashboard  # noqa: PLC0415  (anywidget comes late)

        return self.shown.show(Dashboard, self.sessions.current)

    @line_magic
    @command()
    def kvplay(self, args: Namespace) -> Any:  # noqa: ANN401, ARG002  (as above)
        """Try prompts of the current session's chunks, in any order, under several strategies side by side."""
        from nbkv.widgets.playground import Playground  # noqa: PLC0415  (as above)

        return self.shown.show(Playground, self.sessions.current)
