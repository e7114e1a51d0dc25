"""Long work in the cell that asked for it: one output, drawn again as rows come, which what is returned takes over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from IPython.display import display

from nbkv.events import Advanced, Event
from nbkv.magics.stream_output import INTERVAL, has_front_end
from nbkv.show.progress import DELAY, ProgressBars, progress_html, progress_text

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class CellOutput:
    """The output of one work: made with its first drawing, replaced by each later one."""

    def __init__(self, *, at_once: bool = False, replaced: bool = False) -> None:
        """Draw nothing yet; unless ``at_once``, work that is over within a second never shows.

        What is ``replaced`` in the end by what was found leaves no line of its own.
        """
        self._handle: Any = None
        self._began, self._at_once, self._drawn_at = time.monotonic(), at_once, 0.0
        self._replaced = replaced

    def tell(self, event: Advanced) -> None:
        """Draw how far the work is, if it is time to, or one line that it is over."""
        now = time.monotonic()
        took, begun = now - self._began, self._handle is not None
        due = now - self._drawn_at >= INTERVAL if begun else self._at_once or took >= DELAY
        if (begun and not self._replaced) if event.over else due:
            told = event.to_dict()
            self.draw({"text/html": progress_html(told, took), "text/plain": progress_text(told, took)}, {})

    def draw(self, data: dict[str, Any], metadata: dict[str, Any]) -> None:
        """Put ``data`` by MIME type in the place of what is drawn."""
        if self._handle is None:
            self._handle = display(data, metadata=metadata, raw=True, display_id=True)
        else:
            self._handle.update(data, metadata=metadata, raw=True)
        self._drawn_at = time.monotonic()


class CellProgress:
    """Shows the long work of every session and of the process: in a notebook as outputs of cells, in a terminal as bars."""

    def __init__(self, shell: InteractiveShell) -> None:
        """Show nothing yet."""
        self._shell = shell
        self._bars = ProgressBars()
        self._outputs: dict[tuple[str, str], CellOutput] = {}
        self._asked: CellOutput | None = None

    def __call__(self, event: Event) -> None:
        """Show how far a work is."""
        if not isinstance(event, Advanced):
            return
        if not has_front_end(self._shell):
            self._bars(event)
        elif self._asked is not None:
            self._asked.tell(event)
        else:
            work = (event.session, event.work)
            self._outputs.setdefault(work, CellOutput()).tell(event)
            if event.over:
                del self._outputs[work]

    @contextmanager
    def asked(self, *, at_once: bool = True, replaced: bool = True) -> Iterator[CellOutput | None]:
        """Within the block a magic has asked for the work: one output is its; None where there is no front end."""
        if not has_front_end(self._shell):
            yield None
            return
        self._asked = CellOutput(at_once=at_once, replaced=replaced)
        try:
            yield self._asked
        finally:
            self._asked = None
