"""Entries on file systems that fsspec opens: memory, local files, and S3 from a server of our own."""

from __future__ import annotations

import uuid

import fsspec
import pytest
from entries import SPACE, entry, ids_of
from path_kv import same

from nbkv.stores.tiers.head import Damaged
from nbkv.stores.tiers.key import PathKeys
from nbkv.stores.tiers.remote import RemoteTier


@pytest.fixture(scope="module")
def s3():
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "any", "secret": "any", "client_kwargs": {}}
    yield options
    server.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def place(request, tmp_path):
    name = uuid.uuid4().hex
    if request.param == "memory":
        return {"url": f"memory://{name}"}
    if request.param == "file":
        return {"url": f"file://{tmp_path}/{name}"}
    options = request.getfixturevalue("s3")
    fsspec.filesystem("s3", **options).mkdir(name)
    return {"url": f"s3://{name}/kv", "options": options}


def test_what_is_put_is_found_by_another_process(place):
    one, made = RemoteTier(**place), entry(ids_of(1, 200))
    assert one.put(made)
    assert one.put(made)
    other = RemoteTier(**place)
    for tier in (one, other):
        (key,) = tier.find([PathKeys(SPACE, ids_of(1, 200)).at(128)]).popitem()[1]
        assert same(tier.get(key).kv(), made.kv())
        assert (len(tier), tier.nbytes, tier.tokens) == (1, made.nbytes, 200)
    assert other.drop(made.header.key)
    assert one.get(made.header.key) is None
    assert len(one) == 0


def test_new_entries_of_others_are_seen_when_the_last_look_is_old(place):
    now = [0.0]
    one, other = RemoteTier(**place), RemoteTier(**place, clock=lambda: now[0])
    made = entry(ids_of(2))
    one.put(made)
    assert not other.find(made.header.marks)
    now[0] = 31.0
    assert other.find(made.header.marks)


def test_an_object_that_was_cut_or_changed_is_damaged(place):
    tier, made = RemoteTier(**place), entry(ids_of(3))
    tier.put(made)
    path, whole = tier._path(made.header.key), made.head + b"".join(made.blob(i) for i in range(2))
    for changed in (whole[:-1], whole[:100], b"", whole[:-1] + bytes([whole[-1] ^ 1]), b"x" * len(whole)):
        tier._fs.pipe_file(path, changed)
        tier._fs.invalidate_cache()
        with pytest.raises((Damaged, OSError)):  # S3 refuses to read a part of an empty object
            tier.get(made.header.key).kv()


def test_the_budget_holds_for_what_was_seen(place):
    one = entry(ids_of(0)).nbytes
    tier = RemoteTier(**place, limit=int(2.5 * one))
    for number in range(5):
        assert tier.put(entry(ids_of(number)))
        sizes = [info["size"] for info in tier._fs.find(tier._root, detail=True).values()]
        assert sum(sizes) == tier.nbytes <= tier.limit
    assert tier.counts.evictions == 3
    assert not tier.put(entry(ids_of(9, 1000)))


def bytes_at(tier):
    tier._fs.invalidate_cache()
    return sum(info["size"] for info in tier._fs.find(tier._root, detail=True).values())


def test_the_budget_holds_for_all_processes_together(place):
    one = entry(ids_of(0)).nbytes
    tiers = [RemoteTier(**place, limit=int(3.5 * one)) for _ in range(3)]
    for number in range(9):
        assert tiers[number % 3].put(entry(ids_of(number)))
        assert bytes_at(tiers[0]) <= tiers[0].limit
    assert sum(tier.counts.evictions for tier in tiers) == 6
    assert all(tier._list(tier._announced) == {} for tier in tiers)


@pytest.mark.parametrize("moment", ["_bytes_announced", "look", "_write", "_announcing"])
def test_the_budget_holds_where_another_puts_in_between(place, monkeypatch, moment):
    one = entry(ids_of(0)).nbytes
    first, second = (RemoteTier(**place, limit=int(2.5 * one)) for _ in range(2))
    true, at, totals = getattr(first, moment), [], []

    def between(*args, **options):
        at.append(moment)
        if len(at) == 1:
            for number in (10, 11):
                second.put(entry(ids_of(number)))
                totals.append(bytes_at(first))
        return true(*args, **options)

    monkeypatch.setattr(first, moment, between)
    for number in range(3):
        first.put(entry(ids_of(number)))
        totals.append(bytes_at(first))
    assert at
    assert max(totals) <= first.limit
    assert len(first) > 0


def test_announcements_of_the_dead_count_for_an_hour(place):
    now, one = [10_000.0], entry(ids_of(0)).nbytes
    tier = RemoteTier(**place, limit=int(1.5 * one), clock=lambda: now[0])
    dying = tier._announcing(one)
    dying.__enter__()
    assert not tier.put(entry(ids_of(0)))
    assert bytes_at(tier) == 0
    now[0] += 3601.0
    assert tier.put(entry(ids_of(0)))
    tier.collect()
    assert tier._list(tier._announced) == {}


def test_what_cannot_be_read_counts_too(place):
    one = entry(ids_of(0)).nbytes
    tier = RemoteTier(**place, limit=int(2.5 * one))
    tier._fs.makedirs(f"{tier._root}/zz", exist_ok=True)
    tier._fs.pipe_file(f"{tier._root}/zz/{'0' * 40}-0-5.safetensors", b"x" * one)
    for number in range(3):
        assert tier.put(entry(ids_of(number)))
        assert bytes_at(tier) <= tier.limit
    assert tier.nbytes == one


def test_without_a_limit_nothing_is_announced_or_listed(place, monkeypatch):
    tier = RemoteTier(**place)
    for name in ("look", "_announcing", "_list"):
        monkeypatch.setattr(tier, name, None)
    assert tier.put(entry(ids_of(1)))


def test_what_a_file_system_raises_is_an_oserror_that_names_no_url():
    tier = RemoteTier(url=f"memory://{uuid.uuid4().hex}")
    tier.url = "s3://user:secret@host"
    tier._fs = None
    with pytest.raises(OSError, match="the file system says") as caught:
        tier.put(entry(ids_of(1)))
    assert "secret" not in str(caught.value) + repr(tier)
    assert len(tier) == 0
