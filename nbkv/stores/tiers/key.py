"""Keys of entries: digests of everything that must match before KV may be reused.

A sequence of token ids has a digest at each of its positions: of its space (model, dtype, tenant, lineage, block), of
the form that KV is stored in, and of every token before that position. An entry is found by the digests at its *marks*:
the multiples of ``STEP`` among its positions, and its end. So a lookup asks for as many keys as the prompt has steps,
however many entries there are; the tokens of what it finds are then compared one by one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
from blake3 import blake3

from nbkv.kv import Space

STEP = 64  # tokens from one mark to the next
_BYTES = 20  # of a digest
_KEY = re.compile(r"(?P<digest>[0-9a-f]{40})-(?P<start>\d{1,9})-(?P<stop>\d{1,9})")


class PathKeys:
    """The digests of ``ids``, a sequence in ``space`` whose KV is stored in ``form``."""

    def __init__(self, space: Space, ids: Sequence[int], form: str = "") -> None:
        """Compute nothing yet."""
        self._root = json.dumps([asdict(space), form], sort_keys=True).encode() + b"\0"
        self._ids = np.asarray(ids, dtype="<i8")
        self._at, self._hasher = 0, blake3(self._root)
        self._known: dict[int, str] = {}

    def at(self, position: int) -> str:
        """Return the digest of the first ``position`` tokens as 40 hexadecimal digits; each is computed once."""
        if position not in self._known:
            if position < self._at:
                self._at, self._hasher = 0, blake3(self._root)
            self._hasher.update(self._ids[self._at : position].tobytes())
            self._at = position
            self._known[position] = self._hasher.digest(_BYTES).hex()
        return self._known[position]

    def entry(self, start: int, stop: int) -> EntryKey:
        """Return the key of the entry that holds the tokens ``[start, stop)``."""
        return EntryKey(self.at(stop), start, stop)

    def marks(self, start: int, stop: int) -> tuple[str, ...]:
        """Return the digests by which an entry of the tokens ``[start, stop)`` is found."""
        return tuple(self.at(position) for position in mark_positions(start, stop))


def mark_positions(start: int, stop: int) -> list[int]:
    """Return the marks of an entry ``[start, stop)``: the multiples of ``STEP`` behind its start, and its end."""
    inner = range((start // STEP + 1) * STEP, stop, STEP)
    return [*inner, stop] if stop > start else []


class EntryKey(NamedTuple):
    """What an entry is called wherever it lies: the digest at its end, and its first position and that behind its last.

    Its text is hexadecimal digits, figures and hyphens, so that no name can lead out of a store's folder.
    """

    digest: str
    start: int
    stop: int

    def __str__(self) -> str:
        """Return the key as text."""
        return f"{self.digest}-{self.start}-{self.stop}"

    @classmethod
    def read(cls, text: str) -> EntryKey | None:
        """Return the key that ``text`` is; None if it is none."""
        found = _KEY.fullmatch(text)
        return None if found is None else cls(found["digest"], int(found["start"]), int(found["stop"]))
