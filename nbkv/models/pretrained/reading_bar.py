"""While weights are read: transformers' bar in a terminal, in a notebook one line of ours that ends as a sentence.

Transformers' own bar is a widget there, which a saved notebook has lost ("model not found") or shows as it began.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from tqdm.std import tqdm
from transformers.utils import logging

from nbkv.show.page import view
from nbkv.show.units import seconds

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

DELAY = 1.0  # seconds before a bar shows: what is over by then needs none
_TRACK = "height:4px;border-radius:2px;background-color"


class CellBar(tqdm):  # type: ignore[type-arg]  # what is iterated is transformers' affair
    """One output of the cell: how many weights of a model have been read, and in the end how long that took."""

    def __init__(self, *args: Any, model: str, **kwargs: Any) -> None:  # noqa: ANN401  (those of tqdm)
        """Draw nothing before ``DELAY`` is over; ``model`` is what is read."""
        self._model, self._began = model, time.monotonic()
        self._handle: Any = None
        super().__init__(*args, **kwargs | {"gui": True, "leave": False, "delay": DELAY})
        if not (self.disable or DELAY):
            self.display()

    def display(self, msg: str | None = None, pos: int | None = None, **_: object) -> None:  # noqa: ARG002  (tqdm's)
        """Draw how far it is."""
        share = 100 * self.n / max(1, self.total or 0)
        done = f'<div style="{_TRACK}:#2f7fd0;width:{share:.0f}%"></div>'
        bar = f'<div style="{_TRACK}:rgba(128,128,128,.3)">{done}</div>'
        self._draw(f"{self._model}: {self.n} of {self.total} weights read", bar)

    def close(self) -> None:
        """Leave a sentence in the place of the bar, if there was one."""
        running = not self.disable
        super().close()
        if running and self._handle is not None:
            took = seconds(time.monotonic() - self._began)
            whole = self.n == self.total
            self._draw(f"{self._model}: {'' if whole else f'{self.n} of '}{self.total} weights read in {took}")

    def _draw(self, text: str, bar: str = "") -> None:
        from IPython.display import display  # noqa: PLC0415  (there is a kernel, so it is imported)

        line = f'<p class="nbkv-dim" role="status">{escape(text)}</p>'
        bundle = {"text/html": view(f"{line}{bar}", "progress"), "text/plain": text}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


@contextmanager
def own_bars(model: str) -> Iterator[None]:
    """Within the block what transformers shows while it reads ``model`` is ours, where there is a notebook."""
    if not _in_kernel():
        yield
        return

    def hook(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401  (as transformers calls it)
        bars_wanted = logging.is_progress_bar_enabled()
        return CellBar(*args, model=model, **kwargs) if bars_wanted else factory(*args, **kwargs)

    former = logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        logging.set_tqdm_hook(former)


def _in_kernel() -> bool:
    """Return whether a notebook's kernel runs this; IPython is not imported to find out."""
    known = sys.modules.get("IPython")
    shell: InteractiveShell | None = known.get_ipython() if known is not None else None
    return getattr(shell, "kernel", None) is not None
