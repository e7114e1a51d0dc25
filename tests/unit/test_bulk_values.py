"""Values are received in place whatever pieces they come in; what is no value is an error, and costs the connection."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import threading

import pytest
import redis
from redis_server import RedisServer
from waiting import PATIENCE_S

from nbkv.stores.tiers import bulk_values
from nbkv.stores.tiers.bulk_values import BulkValues, _Replies


@pytest.fixture
def replies_of():
    sockets, threads = [], []

    def make(data, piece):
        ours, theirs = socket.socketpair()
        sockets.append(ours)
        ours.settimeout(PATIENCE_S)

        def send():
            with theirs, contextlib.suppress(OSError):
                for at in range(0, len(data), piece):
                    theirs.sendall(data[at : at + piece])

        threads.append(threading.Thread(target=send))
        threads[-1].start()
        return _Replies(ours)

    yield make
    for each in sockets:
        each.close()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("piece", [1, 3, 255, 257, 100_000])
def test_values_are_whole_whatever_pieces_they_come_in(replies_of, piece):
    draw = random.Random(piece)
    sizes = [0, 1, 2, 255, 256, 257, 5000, 3]
    values = [draw.randbytes(size) for size in sizes]
    values.insert(4, None)
    said = b"".join(b"$-1\r\n" if each is None else b"$%d\r\n%b\r\n" % (len(each), each) for each in values)
    replies = replies_of(said + b"_\r\n", piece)
    for each in values:
        got = replies.value(10_000)
        assert (got if got is None else bytes(got)) == each
        assert got is None or not got.readonly
    assert replies.value(10_000) is None


@pytest.mark.parametrize("piece", [1, 3, 255, 257, 100_000])
@pytest.mark.parametrize("strip", [1, 100, 2**18])
def test_values_go_where_they_are_wanted(replies_of, monkeypatch, piece, strip):
    monkeypatch.setattr(bulk_values, "_STRIP", strip)
    draw = random.Random(piece)
    values = [draw.randbytes(size) for size in (700, 1, 256)]
    replies = replies_of(
        b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in values) + b"$-1\r\n$2\r\nok\r\n", piece
    )
    for each in values:
        into = [memoryview(bytearray(size)) for size in (0, len(each) // 3, 1, len(each) - len(each) // 3 - 1)]
        parts = b"".join(replies.parts(into))
        assert parts == b"".join(into) == each
    assert list(replies.parts([memoryview(bytearray(4))])) == []
    assert bytes(replies.value(2)) == b"ok"


@pytest.mark.parametrize("size", [0, 4, 6, 900])
def test_a_value_of_another_size_is_not_put_where_one_is_wanted(replies_of, size):
    replies, into = replies_of(b"$%d\r\n%b\r\n$1\r\nx\r\n" % (size, b"y" * size), 7), memoryview(bytearray(5))
    assert [bytes(part) for part in replies.parts([into])] == [b"y" * size]
    assert bytes(into) == bytes(5)
    assert bytes(replies.value(1)) == b"x"


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"-LOADING the server\r\n", redis.ResponseError),
        (b":7\r\n", redis.InvalidResponse),
        (b"*-1\r\n", redis.InvalidResponse),
        (b"$-2\r\n", redis.InvalidResponse),
        (b"$11\r\nhello world\r\n", redis.InvalidResponse),  # more than was to be expected
        (b"$many\r\n", ValueError),
        (b"x" * 5000, redis.InvalidResponse),
        (b"$5\r\nab", redis.ConnectionError),
        (b"$5\r\nhello", redis.ConnectionError),
        (b"", redis.ConnectionError),
    ],
)
def test_what_is_no_value_is_an_error(replies_of, monkeypatch, said, error):
    monkeypatch.setattr(bulk_values, "_MORE", 5)
    with pytest.raises(error):
        replies_of(said, 4).value(10)
    with pytest.raises(error):
        list(replies_of(said, 4).parts([memoryview(bytearray(5))]))


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")
def test_a_connection_that_failed_is_not_used_again(tmp_path):
    server = RedisServer(tmp_path).start()
    try:
        client = redis.Redis.from_url(server.url)
        bulk, large = BulkValues(client), random.Random(1).randbytes(300_000)
        bulk.set([("a", [large[:7], memoryview(large)[7:]]), ("b", [b""])], 100)
        assert 0 < client.ttl("a") <= 100
        a, b, none = bulk.get(["a", "b", "c"], [len(large), 0, 5])
        assert (bytes(a), bytes(b), none) == (large, b"", None)
        client.set("c", b"x" * (2**20 + 9))
        with pytest.raises(redis.InvalidResponse):
            bulk.get(["c", "b"], [1, 1])
        assert bytes(bulk.get(["b"], [0])[0]) == b""
        assert client.get("a") == large
        place = memoryview(bytearray(len(large)))
        received = bulk.receive("a", [place])
        next(received)
        received.close()  # in the middle: what is still under way is nobody's
        assert b"".join(bulk.receive("a", [place[:9], place[9:]])) == large
        assert bytes(place) == large
        assert list(bulk.receive("none", [place])) == []
        client.lpush("list", "x")
        with pytest.raises(redis.ResponseError):
            bulk.get(["list"], [1])
        client.config_set("maxmemory", "1")
        with pytest.raises(redis.ResponseError):
            bulk.set([("d", [large]), ("e", [large])], 100)
        assert client.get("a") == large
        client.close()
    finally:
        server.kill()
