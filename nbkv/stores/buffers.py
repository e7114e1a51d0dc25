"""Which lines a store has and what they take, counted as they change: a request asks none but its own line."""

from __future__ import annotations

from collections.abc import Iterator

from nbkv.stores.base import PathBuffer


class BufferLedger:
    """Lines, with the bytes they took when their last lease ended; what is on lease may grow, and is asked each time.

    A line without nodes is none of the ledger's, unless it is on lease.
    """

    def __init__(self) -> None:
        """Start without lines."""
        self._bytes: dict[PathBuffer, int] = {}
        self._sum = 0
        self._leased: set[PathBuffer] = set()
        self._loose: set[PathBuffer] = set()  # not on lease now, but since they were last fitted

    def __iter__(self) -> Iterator[PathBuffer]:
        """Yield every line."""
        yield from (*self._leased, *self._bytes)

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated by all lines, used or not."""
        return self._sum + sum(line.buffer.nbytes for line in self._leased)

    def lease(self, line: PathBuffer) -> None:
        """Have ``line``, new or known, on lease."""
        self._forget(line)
        self._leased.add(line)
        line.leased = True

    def settle(self, line: PathBuffer) -> None:
        """End the lease of ``line``."""
        self._leased.discard(line)
        line.leased = False
        if line.nodes:
            self._loose.add(line)
            self._count(line)

    def fit(self) -> None:
        """Give back the memory behind the last tokens of all lines that are not on lease."""
        for line in self._loose:
            line.buffer.fit()
            self._count(line)
        self._loose.clear()

    def shrink(self, line: PathBuffer) -> None:
        """Give back what a node that left ``line`` took."""
        if line.leased:
            return
        if line.nodes:
            line.buffer.truncate(line.needed)
            line.buffer.fit()
            self._count(line)
        else:
            self._forget(line)

    def clear(self) -> None:
        """Forget all lines but those on lease, and what lives in these."""
        self._bytes.clear()
        self._loose.clear()
        self._sum = 0
        for line in self._leased:
            line.nodes.clear()

    def _count(self, line: PathBuffer) -> None:
        now = line.buffer.nbytes
        self._sum += now - self._bytes.get(line, 0)
        self._bytes[line] = now

    def _forget(self, line: PathBuffer) -> None:
        self._loose.discard(line)
        self._sum -= self._bytes.pop(line, 0)
