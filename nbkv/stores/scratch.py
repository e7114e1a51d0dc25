"""What strategies keep for themselves between the requests of one session, apart from the store that all share."""

from __future__ import annotations

import weakref
from typing import Any


class Scratch(dict[str, Any]):
    """One session's own things, by the name of the strategy that put them there; no other session can reach it."""


class ScratchSpaces:
    """The scratch spaces of the sessions that use a store, for as long as those live."""

    def __init__(self) -> None:
        """Know none."""
        self._known: list[weakref.ref[Scratch]] = []

    def add(self, shelf: Scratch) -> None:
        """Remember ``shelf``, once."""
        self._known = [ref for ref in self._known if ref() is not None and ref() is not shelf]
        self._known.append(weakref.ref(shelf))

    def clear(self) -> None:
        """Empty every shelf."""
        for ref in self._known:
            if (shelf := ref()) is not None:
                shelf.clear()
