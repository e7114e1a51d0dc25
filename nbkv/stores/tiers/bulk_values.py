"""Large values of a Redis server, sent from where they are and received where they are used.

A client library joins what it receives from pieces, and copies what it sends; for K/V that takes longer than the way
to the server. So these replies are read from the library's own connection, whose handshake, timeouts and pool stay its.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import redis

from nbkv.stores.tiers.entry import Receivable

_FIRST = 256  # bytes that are read together with the first line of a reply
_STRIP = 2**18  # bytes that are received before they are handed on: a processor still has them in its cache
_MORE = 2**20  # bytes by which a value may be larger than it should be and is still read


class BulkValues:
    """Strings on the server of ``client``. Errors are redis-py's, and ``OSError``."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401  (a client's type depends on how it answers)
        """Use the connections of ``client``."""
        self._pool = client.connection_pool

    def set(self, values: Iterable[tuple[str, Sequence[Any]]], seconds: int) -> None:
        """Set each name to its pieces, one after another, for ``seconds``; all are sent before an answer is read."""
        with self._connection() as connection:
            sent = 0
            for name, pieces in values:
                size = sum(memoryview(piece).nbytes for piece in pieces)
                begin = b"*5\r\n%b%b$%d\r\n" % (_argument(b"SET"), _argument(name.encode()), size)
                end = b"\r\n%b%b" % (_argument(b"EX"), _argument(b"%d" % seconds))
                connection.send_packed_command([begin, *pieces, end])
                sent += 1
            for _ in range(sent):
                connection.read_response()

    def get(self, names: Sequence[str], sizes: Sequence[int]) -> list[memoryview | None]:
        """Return the values of ``names``, about as large as ``sizes``, in memory of their own; None: no such name."""
        with self._connection() as connection:
            asked = b"".join(b"*2\r\n%b%b" % (_argument(b"GET"), _argument(name.encode())) for name in names)
            connection.send_packed_command([asked])
            replies = _Replies(connection._sock)  # noqa: SLF001  (there is no other way to receive in place)
            return [replies.value(size + _MORE) for size in sizes]

    def receive(self, name: str, into: Sequence[memoryview]) -> Iterator[memoryview]:
        """Fill the bytes ``into``, one after another, with the value of ``name``, and yield each part as it comes.

        Nothing comes where there is no such name, and bytes elsewhere where the value is larger or smaller.
        """
        with self._connection() as connection:
            connection.send_packed_command([b"*2\r\n%b%b" % (_argument(b"GET"), _argument(name.encode()))])
            yield from _Replies(connection._sock).parts(into)  # noqa: SLF001  (as above)

    @contextmanager
    def _connection(self) -> Iterator[Any]:
        connection = self._pool.get_connection()
        try:
            yield connection
        except BaseException:
            connection.disconnect()  # what it would still be told was asked by nobody else
            raise
        finally:
            self._pool.release(connection)


@contextmanager
def talking() -> Iterator[None]:
    """Within the block what goes wrong, also an answer without sense, is an ``OSError`` that names no URL."""
    try:
        yield
    except (redis.RedisError, ValueError, TypeError, AttributeError, IndexError) as error:
        message = f"Redis: {type(error).__name__}"
        raise OSError(message) from None


@dataclass(frozen=True)
class ServerString(Receivable):
    """The string ``name`` on a server."""

    values: BulkValues
    name: str

    def receive(self, into: Sequence[memoryview]) -> Iterator[memoryview]:
        """Have it sent."""
        with talking():
            yield from self.values.receive(self.name, into)


class _Replies:
    """Replies as they come from ``sock``, one behind the other."""

    def __init__(self, sock: Any) -> None:  # noqa: ANN401  (plain or of TLS)
        self._sock, self._rest = sock, b""

    def value(self, most: int) -> memoryview | None:
        """Return the next one, of at most so many bytes."""
        size = self._size(most)
        return None if size < 0 else self._bytes(size)

    def parts(self, into: Sequence[memoryview]) -> Iterator[memoryview]:
        """Yield the next one in parts, as they come ``into`` memory that has its size; one of another size whole."""
        wanted = sum(each.nbytes for each in into)
        size = self._size(wanted + _MORE)
        if size != wanted:
            if size >= 0:
                yield self._bytes(size)
            return
        for strip in (each[at : at + _STRIP] for each in into for at in range(0, each.nbytes, _STRIP)):
            self._fill(strip)
            yield strip
        self._end()

    def _size(self, most: int) -> int:
        """Return the bytes of the next one; -1: there is none."""
        while b"\r\n" not in self._rest:
            if len(self._rest) > _FIRST:
                message = "an answer without an end"
                raise redis.InvalidResponse(message)
            self._rest += self._receive(_FIRST)
        line, self._rest = self._rest.split(b"\r\n", 1)
        if line[:1] == b"-":
            raise redis.ResponseError(line[1:].decode(errors="replace"))
        size = -1 if line == b"_" else int(line[1:])
        if line[:1] not in (b"$", b"_") or not -1 <= size <= most:
            message = f"an answer of {len(line)} bytes that is no value"
            raise redis.InvalidResponse(message)
        return size

    def _bytes(self, size: int) -> memoryview:
        into = memoryview(np.empty(size, dtype=np.uint8))  # type: ignore[arg-type]  # arrays are buffers
        self._fill(into)
        self._end()
        return into

    def _fill(self, into: memoryview) -> None:
        size = into.nbytes
        here = min(size, len(self._rest))
        into[:here], self._rest = self._rest[:here], self._rest[here:]
        while here < size:
            got = self._sock.recv_into(into[here:])
            if not got:
                raise redis.ConnectionError
            here += got

    def _end(self) -> None:
        while len(self._rest) < len(b"\r\n"):
            self._rest += self._receive(_FIRST)
        self._rest = self._rest[2:]

    def _receive(self, most: int) -> bytes:
        got: bytes = self._sock.recv(most)
        if not got:
            raise redis.ConnectionError
        return got


def _argument(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)
