"""The bars of transformers and huggingface_hub while a model is read, as steps of the work that reads it.

Their own are widgets in a notebook, which a saved one has lost ("model not found") or shows as they began.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

from tqdm.std import tqdm
from transformers import modeling_gguf_pytorch_utils as gguf
from transformers.utils import logging

from nbkv.process_work import ProcessWork
from nbkv.show.units import size

MOST = 100  # steps that one bar counts for: a file has more bytes than anybody wants to read


class StepBar(tqdm):  # type: ignore[type-arg]  # what is iterated is transformers' affair
    """Draws nothing: tells ``reader`` how far it is, ten times a second at most, and there ends if that is stopped."""

    reader: ClassVar[ProcessWork]

    def __init__(self, *args: Any, name: str = "", **kwargs: Any) -> None:  # noqa: ANN401, ARG002  (tqdm's, and the hub's)
        """Count for as many steps as there is to do, at most ``MOST``; the hub gives its bars a ``name``."""
        super().__init__(*args, **kwargs | {"gui": True, "leave": False, "disable": False})
        self._steps, self._told = min(MOST, int(self.total or 0)), 0
        self.reader.expect(self._steps)
        self.refresh()

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:  # noqa: ANN401, ARG002, FBT001, FBT002  (tqdm's)
        """Tell how far it is."""
        now = int(self._steps * min(1.0, self.n / self.total)) if self.total else 0
        before, self._told = self._told, now
        self.reader.step(self._words(), steps=now - before)

    def display(self, msg: str | None = None, pos: int | None = None, **_: object) -> None:
        """Draw nothing, whatever tqdm would."""

    def close(self) -> None:
        """Tell that it is done, as far as it is."""
        if not self.disable:
            super().close()
            if self.total and self.n >= self.total:
                self.refresh()

    def _words(self) -> str:
        what, told = self.desc.strip(" :.…") or "reading", size if self.unit == "B" else str
        how_far = f"{told(self.n)} of {told(self.total)}" if self.total else told(self.n)
        verb = "downloading " if self.unit == "B" and "download" not in what.lower() else ""
        return f"{verb}{what if verb else what[0].lower() + what[1:]}, {how_far}"


@contextmanager
def own_bars(work: ProcessWork) -> Iterator[None]:
    """Within the block the bars of transformers and of the hub are steps of ``work``."""
    bar = type("ReaderBar", (StepBar,), {"reader": work})

    def hook(_: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401  (as transformers calls it)
        return bar(*args, **kwargs)

    former = logging.set_tqdm_hook(hook)
    try:
        with ExitStack() as stack:
            for module, name in _places():
                stack.callback(setattr, module, name, vars(module)[name])
                setattr(module, name, bar)
            yield
    finally:
        logging.set_tqdm_hook(former)


def _places() -> list[tuple[Any, str]]:
    """Return where the class of a bar stands that takes no hook: the GGUF reader's, and those of the hub's modules."""
    hub: Any = sys.modules["huggingface_hub.utils.tqdm"]  # which transformers has imported
    modules = [module for name, module in tuple(sys.modules.items()) if name.startswith("huggingface_hub.")]
    known = [(module, name) for module in modules for name in ("tqdm", "hf_tqdm")]
    return [(gguf, "tqdm")] + [(module, name) for module, name in known if vars(module).get(name) is hub.tqdm]
