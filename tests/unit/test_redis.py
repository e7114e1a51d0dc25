from __future__ import annotations

import contextlib
import shutil
import socketserver
import threading

import pytest
import torch
from entries import SPACE, entry, ids_of
from path_kv import same
from redis_server import RedisServer
from waiting import PATIENCE_S

from nbkv.events import Bus
from nbkv.stores.spec import open_store
from nbkv.stores.tiers.guard import GuardedTier
from nbkv.stores.tiers.head import Damaged
from nbkv.stores.tiers.indexed.policies import policy_of
from nbkv.stores.tiers.key import PathKeys
from nbkv.stores.tiers.redis import RedisTier

pytestmark = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield running
    running.kill()


@pytest.fixture(params=[2**23, 0], ids=["together", "in place"])
def _layers(request, monkeypatch):
    """Layers are read several at a time, or each one where it is wanted, as those of large entries are."""
    monkeypatch.setattr("nbkv.stores.tiers.redis._AHEAD", request.param)


@pytest.fixture
def tier_of(server):
    opened = []

    def make(**options):
        opened.append(RedisTier(url=server.url, timeout_s=PATIENCE_S, **options))
        return opened[-1]

    make().client.flushall()
    yield make
    for tier in opened:
        tier.client.close()


@pytest.mark.usefixtures("_layers")
def test_what_is_put_is_found_by_another_client(tier_of):
    one, other, made = tier_of(), tier_of(), entry(ids_of(1, 200))
    assert one.put(made)
    assert one.put(made)
    for tier in (one, other):
        (key,) = tier.find([PathKeys(SPACE, ids_of(1, 200)).at(128)]).popitem()[1]
        assert same(tier.get(key).kv(), made.kv())
        assert (len(tier), tier.nbytes, tier.tokens) == (1, made.nbytes, 200)
    assert other.drop(made.header.key)
    assert not other.drop(made.header.key)
    assert (one.get(made.header.key), len(one), one.nbytes, one.tokens) == (None, 0, 0, 0)
    assert {name.decode() for name in one.client.keys("nbkv:*")} == {"nbkv:bytes", "nbkv:tokens", "nbkv:tick"}


@pytest.mark.parametrize("policy", ["lru", "lfu", "cost", "rank"])
def test_the_budget_holds_and_evicts_by_policy(tier_of, policy):
    one = entry(ids_of(0)).nbytes
    tier = tier_of(limit=int(2.5 * one), policy=policy_of(policy))
    first, pinned, *others = [entry(ids_of(i), pinned=i == 1, rank=i + 1.0) for i in range(6)]
    assert tier.put(first)
    assert tier.put(pinned)
    for each in others:
        assert tier.put(each)
        assert tier.nbytes <= tier.limit
    assert set(tier.keys()) == {pinned.header.key, others[-1].header.key}
    assert tier.counts.evictions == 4
    assert not tier.put(entry(ids_of(9, 1000)))


def test_no_room_beside_what_is_pinned(tier_of):
    made = [entry(ids_of(i), pinned=True) for i in range(2)]
    tier = tier_of(limit=made[0].nbytes + 10)
    assert tier.put(made[0])
    assert not tier.put(made[1])
    assert tier.nbytes == made[0].nbytes
    assert tier.keep(made[0].header.key, entry(ids_of(0)).header.facts)
    assert tier.put(made[1])


def test_entries_expire_on_the_server(tier_of):
    tier, made = tier_of(), entry(ids_of(1), ttl=1000.0)
    tier.put(made)
    assert 0 < tier.client.ttl(f"nbkv:head:{made.header.key}") <= 1000
    tier.client.delete(f"nbkv:head:{made.header.key}")  # as when it has expired
    assert tier.get(made.header.key) is None
    assert (len(tier), tier.nbytes) == (0, 0)
    tier.put(made)
    tier.client.delete(f"nbkv:head:{made.header.key}")
    assert tier.collect() == (1, made.nbytes)
    assert tier.nbytes == 0


def test_what_was_never_finished_is_not_seen_and_leaves_the_account(tier_of):
    tier, made = tier_of(limit=10**6), entry(ids_of(1))
    tier._reserve(keys=[tier.prefix], args=[made.nbytes, 0])
    tier._fill("nbkv:draft:x:", made)
    assert not tier.find(made.header.marks)
    names = tier.client.keys("nbkv:draft:*")
    assert [tier.client.ttl(name) > 0 for name in names] == [True] * 3
    tier.client.delete(*names)
    tier.collect()
    assert tier.nbytes == 0


@pytest.mark.usefixtures("_layers")
@pytest.mark.parametrize("field", ["head", "0", "1"])
@pytest.mark.parametrize("garbage", [b"", b"garbage" * 1000, None])
def test_damaged_strings_are_damaged(tier_of, field, garbage):
    tier, made = tier_of(), entry(ids_of(1))
    tier.put(made)
    name = f"nbkv:head:{made.header.key}" if field == "head" else f"nbkv:layer:{made.header.key}:{field}"
    if garbage is None:
        tier.client.delete(name)
    else:
        tier.client.set(name, garbage)
    if (field, garbage) == ("head", None):
        assert tier.get(made.header.key) is None
        return
    with pytest.raises(Damaged):
        tier.get(made.header.key).kv()


@pytest.mark.parametrize("spare", [0, 9])
def test_layers_of_a_large_entry_are_received_where_they_are_wanted(tier_of, monkeypatch, spare):
    monkeypatch.setattr("nbkv.stores.tiers.redis._AHEAD", 0)
    tier, made = tier_of(), entry(ids_of(1))
    tier.put(made)
    found = tier.get(made.header.key)
    for layer in (1, 0, 1):
        into = tuple(torch.zeros(2, 70 + spare, 3)[:, :70] for _ in "kv")
        pair = found.layer(layer, into)
        assert all(side is place for side, place in zip(pair, into, strict=True))
        assert all(torch.equal(*both) for both in zip(pair, made.layer(layer), strict=True))
    raw = bytearray(tier.client.get(f"nbkv:layer:{made.header.key}:1"))
    raw[9] ^= 4
    tier.client.set(f"nbkv:layer:{made.header.key}:1", bytes(raw))
    with pytest.raises(Damaged, match="changed"):
        found.layer(1, into)
    assert torch.equal(found.layer(0, into)[0], made.layer(0)[0])


@pytest.fixture
def garbage():
    """A server that gives ``answer`` to whatever it is asked."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.settimeout(1)
            with contextlib.suppress(OSError):
                while self.request.recv(65536) and self.server.answer:
                    self.request.sendall(self.server.answer)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("answer", [b"nonsense\r\n", b"$5\r\nab", b":7\r\n", b"*-1\r\n", b"-LOADING x\r\n", b""])
def test_a_server_that_answers_garbage_is_a_miss(garbage, monkeypatch, answer):
    garbage.answer, made, heard = answer, entry(ids_of(1)), Bus()
    monkeypatch.setattr("redis.Redis.ping", lambda self: None)
    tier = RedisTier(url=f"redis://:secret@127.0.0.1:{garbage.server_address[1]}", timeout_s=0.2)
    told = []
    heard.add(told.append)
    for call in (lambda guard: guard.get(made.header.key), lambda guard: guard.find(made.header.marks)):
        assert not call(GuardedTier(tier, heard))
    GuardedTier(tier, heard).put(made)
    tier.client.close()
    assert "secret" not in str(told)
    assert tier.counts.faults == len(told)


@pytest.mark.parametrize(("option", "seconds"), [("", 2.0), ("?timeout=7s", 7.0), ("?timeout=2m", 120.0)])
def test_connections_wait_as_long_as_the_specification_says(monkeypatch, option, seconds):
    monkeypatch.setattr("redis.Redis.ping", lambda self: None)  # nothing is connected: no time passes
    (tier,) = open_store(f"memory+redis://127.0.0.1:1{option}", Bus(), "cpu").below
    asked = tier.client.get_connection_kwargs()
    assert (asked["socket_timeout"], asked["socket_connect_timeout"]) == (seconds, seconds)


def test_a_server_that_is_gone_is_an_oserror_without_its_password(tmp_path):
    with pytest.raises(OSError, match="Redis: ConnectionError") as caught:
        RedisTier(url="redis://:secret@127.0.0.1:1/0")
    assert "secret" not in str(caught.value)
