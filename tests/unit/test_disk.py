from __future__ import annotations

import random
import socket
import sqlite3

import pytest
from entries import SPACE, entry, ids_of
from path_kv import same, truth
from safetensors.torch import load_file

from nbkv.kv import Space
from nbkv.stores.tiers.disk import DiskTier
from nbkv.stores.tiers.head import Damaged, Sealer
from nbkv.stores.tiers.indexed.policies import policy_of
from nbkv.stores.tiers.key import PathKeys


def size_of(ids):
    return entry(ids).nbytes


def test_what_is_put_is_there_bit_for_bit_and_after_reopening(tmp_path):
    tier = DiskTier(root=tmp_path)
    made = entry(ids_of(1), 3)
    assert tier.put(made)
    for again in (tier, DiskTier(root=tmp_path)):
        found = again.get(made.header.key)
        assert found.header == made.header
        assert same(found.kv(), truth(ids_of(1), 3, 70))
        assert list(again.keys()) == [made.header.key]
        assert (len(again), again.nbytes) == (1, made.nbytes)
        assert again.find([PathKeys(SPACE, ids_of(1)).at(64)]) == {made.header.marks[0]: [made.header.key]}


def test_files_are_what_safetensors_reads(tmp_path):
    tier = DiskTier(root=tmp_path)
    tier.put(entry(ids_of(1)))
    (path,) = tmp_path.rglob("*.safetensors")
    kv, read = truth(ids_of(1), 0, 70), load_file(path)
    assert sorted(read) == ["0000.k", "0000.v", "0001.k", "0001.v"]
    assert all((read[f"000{i}.k"] == kv.keys[i]).all() for i in range(2))


@pytest.mark.parametrize("field", ["model", "dtype", "tenant", "lineage", "block"])
def test_keys_that_differ_in_one_field_never_meet(tmp_path, field):
    tier, ids = DiskTier(root=tmp_path), ids_of(2)
    other = Space(**(vars(SPACE) | {field: 4 if field == "block" else "another"}))
    tier.put(entry(ids))
    assert tier.find(PathKeys(other, ids).marks(0, 70)) == {}
    assert tier.get(PathKeys(other, ids).entry(0, 70)) is None
    assert tier.find(PathKeys(SPACE, ids, "int8").marks(0, 70)) == {}


def test_layers_are_read_one_by_one(tmp_path):
    tier = DiskTier(root=tmp_path)
    made = entry(ids_of(1))
    tier.put(made)
    (path,) = tmp_path.rglob("*.safetensors")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1  # in the last layer
    path.write_bytes(raw)
    found = tier.get(made.header.key)
    assert (found.layer(0)[0] == truth(ids_of(1), 0, 70).keys[0]).all()
    with pytest.raises(Damaged, match="layer 1"):
        found.layer(1)


def test_a_dropped_entry_is_gone_and_dropping_again_is_nothing(tmp_path):
    tier = DiskTier(root=tmp_path)
    made = entry(ids_of(1))
    tier.put(made)
    assert tier.drop(made.header.key)
    assert not tier.drop(made.header.key)
    assert (tier.get(made.header.key), len(tier), tier.nbytes) == (None, 0, 0)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("how", ["missing", "garbage", "empty", "cut"])
def test_an_index_that_is_missing_or_broken_is_made_anew(tmp_path, how):
    tier = DiskTier(root=tmp_path)
    made = [entry(ids_of(i)) for i in range(30)]
    assert all(tier.put(each) for each in made)
    tier.close()
    index = tmp_path / "index.sqlite"
    if how == "missing":
        index.unlink()
    else:
        whole = index.read_bytes()
        index.write_bytes({"garbage": b"no database" * 500, "empty": b"", "cut": whole[: len(whole) // 2]}[how])
    again = DiskTier(root=tmp_path)
    for each in made:
        if each.header.key not in set(again.keys()):  # sqlite notices late that its file was cut
            pytest.fail(str(each.header.key))
        assert same(again.get(each.header.key).kv(), each.kv())
    assert again.nbytes == sum(each.nbytes for each in made)


def test_an_index_broken_under_an_open_store_is_an_error_once_and_then_made_anew(tmp_path):
    tier = DiskTier(root=tmp_path)
    made = entry(ids_of(1))
    tier.put(made)
    (tmp_path / "index.sqlite").unlink()
    (tmp_path / "index.sqlite").write_bytes(b"no database" * 500)
    with pytest.raises(OSError, match="made anew"):
        tier.find(made.header.marks)
    assert tier.find(made.header.marks)


@pytest.mark.parametrize("policy", ["lru", "lfu", "cost", "rank"])
def test_the_budget_holds_at_every_step(tmp_path, policy):
    one = size_of(ids_of(1))
    tier = DiskTier(root=tmp_path, limit=int(3.5 * one), policy=policy_of(policy))
    draw = random.Random(1)
    for number in range(40):
        tier.put(entry(ids_of(number), seconds=draw.random(), rank=draw.random()))
        files = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
        assert files == tier.nbytes <= tier.limit
        tier.use(draw.choices(list(tier.keys()), k=2))
    assert tier.counts.evictions == 40 - len(tier)


def left(tier, made):
    there = set(tier.keys())
    return [number for number, each in enumerate(made) if each.header.key in there]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("lru", [0, 1, 4]), ("lfu", [0, 2, 4]), ("cost", [2, 3, 4]), ("rank", [1, 3, 4])],
)
def test_policies_evict_what_they_score_lowest(tmp_path, policy, expected):
    seconds, ranks = [0.001, 0.002, 5.0, 9.0, 1.0], [0.1, 8.0, 0.2, 9.0, 7.0]
    made = [entry(ids_of(i), seconds=seconds[i], rank=ranks[i]) for i in range(5)]
    tier = DiskTier(root=tmp_path, limit=4 * made[0].nbytes + 100, policy=policy_of(policy))
    for each in made[:4]:
        tier.put(each)
    keys = [each.header.key for each in made]
    tier.use([keys[2], keys[2], keys[0], keys[0], keys[1]])
    tier.index.shrink(2 * made[0].nbytes + 100)
    tier.put(made[4])
    assert left(tier, made) == expected


def test_pinned_entries_stay_and_priorities_come_before_recency(tmp_path):
    made = [entry(ids_of(0), pinned=True), entry(ids_of(1), priority=1), *(entry(ids_of(i)) for i in (2, 3))]
    low = entry(ids_of(4), priority=-1)
    tier = DiskTier(root=tmp_path, limit=4 * low.nbytes + 100)
    for each in (*made[:3], low):
        tier.put(each)
    tier.put(made[3])
    assert left(tier, [*made, low]) == [0, 1, 2, 3]
    tier.index.shrink(2 * low.nbytes + 100)
    assert left(tier, made) == [0, 1]
    tier.index.shrink(0)
    assert left(tier, made) == [0]
    assert not tier.put(entry(ids_of(5, 300)))  # no room beside what is pinned
    assert tier.keep(made[0].header.key, entry(ids_of(0)).header.facts)
    assert tier.put(entry(ids_of(5, 300)))


def test_entries_expire_and_a_clock_that_goes_back_loses_nothing(tmp_path):
    now = [1000.0]
    tier = DiskTier(root=tmp_path, clock=lambda: now[0])
    brief, lasting = entry(ids_of(1), ttl=10.0), entry(ids_of(2))
    tier.put(brief)
    tier.put(lasting)
    assert tier.find(brief.header.marks)
    for now[0] in (500.0, 1009.9):
        assert tier.find(brief.header.marks)
    now[0] = 1010.0
    assert not tier.find(brief.header.marks)
    assert tier.collect() == (1, brief.nbytes)
    assert left(tier, [brief, lasting]) == [1]
    now[0] = 0.0
    assert tier.put(brief)
    assert tier.find(brief.header.marks)


def test_what_a_killed_process_left_is_cleared(tmp_path, monkeypatch):
    tier = DiskTier(root=tmp_path)
    made = [entry(ids_of(i)) for i in range(3)]
    dead = socket.gethostname() + ":999999999"
    monkeypatch.setattr("nbkv.stores.tiers.indexed.index._writer", lambda: dead)
    for each in made:
        tier.index.reserve(each.header, each.nbytes, 0)
    tier._write(made[0])  # killed before it was noted as ready
    draft = tier._path(made[1].header.key).with_name(f".{tier._path(made[1].header.key).name}.9.9.tmp")
    draft.parent.mkdir(exist_ok=True)
    draft.write_bytes(b"half")
    again = DiskTier(root=tmp_path)
    assert left(again, made) == [0]
    assert same(again.get(made[0].header.key).kv(), made[0].kv())
    assert not draft.exists()
    assert again.nbytes == made[0].nbytes


def test_without_the_key_nobody_makes_an_entry_that_is_taken(tmp_path):
    ours, theirs = Sealer(b"ours"), Sealer(b"theirs")
    for sealer in (Sealer(), theirs):
        made = entry(ids_of(1), sealer=sealer)
        DiskTier(root=tmp_path, sealer=sealer).put(made)
        tier = DiskTier(root=tmp_path, sealer=ours)
        with pytest.raises(Damaged, match="seal"):
            tier.get(made.header.key)
        tier.drop(made.header.key)
    assert "ours" not in repr(tier)
    tier.put(entry(ids_of(1), sealer=ours))
    assert same(tier.get(made.header.key).kv(), made.kv())


def test_an_index_shared_with_another_process_that_was_made_anew_is_noticed(tmp_path):
    one, other = DiskTier(root=tmp_path), DiskTier(root=tmp_path)
    first, second = entry(ids_of(1)), entry(ids_of(2))
    one.put(first)
    assert left(other, [first]) == [0]
    one.index.file.begin_anew()
    one.put(second)
    assert left(other, [first, second]) == [0, 1]
    assert sqlite3.connect(tmp_path / "index.sqlite").execute("SELECT count(*) FROM entries").fetchone() == (2,)
