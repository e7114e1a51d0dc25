"""Large values of a Redis server, sent from where they are and received where they are used.

A client library joins what it receives from pieces, and copies what it sends; for K/V that takes longer than the way
to the server. So these replies are read from the library's own connection, whose handshake, timeouts and pool stay its.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
import torch

_FIRST = 256  # bytes that are read together with the first line of a reply
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


class _Replies:
    """Replies as they come from ``sock``, one behind the other."""

    def __init__(self, sock: Any) -> None:  # noqa: ANN401  (plain or of TLS)
        self._sock, self._rest = sock, b""

    def value(self, most: int) -> memoryview | None:
        """Return the next one, of at most so many bytes."""
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
        return None if size < 0 else self._bytes(size)

    def _bytes(self, size: int) -> memoryview:
        into = memoryview(torch.empty(size, dtype=torch.uint8).numpy())  # type: ignore[arg-type]  # arrays are buffers
        here = min(size, len(self._rest))
        into[:here], self._rest = self._rest[:here], self._rest[here:]
        while here < size:
            got = self._sock.recv_into(into[here:])
            if not got:
                raise redis.ConnectionError
            here += got
        while len(self._rest) < len(b"\r\n"):
            self._rest += self._receive(_FIRST)
        self._rest = self._rest[2:]
        return into

    def _receive(self, most: int) -> bytes:
        got: bytes = self._sock.recv(most)
        if not got:
            raise redis.ConnectionError
        return got


def _argument(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)
