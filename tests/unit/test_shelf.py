"""Snapshots in tiers: found by the very tokens they are of, whole or not at all."""

from __future__ import annotations

import pytest
import torch
from entries import SPACE, ids_of

from nbkv.events import Bus, Stored, StoreFault, TierRead
from nbkv.kv import Space
from nbkv.stores.snapshots.shelf import LEAST, SnapshotShelf
from nbkv.stores.tiers.disk import DiskTier
from nbkv.stores.tiers.guard import GuardedTier
from nbkv.stores.tiers.head import EntryFacts, Sealer
from nbkv.stores.tiers.host import HostTier
from nbkv.stores.writer import BackgroundWriter

KIND = "kind"


def shelf_of(*tiers, sealer=None):
    bus, told = Bus(), []
    bus.add(told.append)
    guarded = [GuardedTier(tier, bus) for tier in tiers]
    given = BackgroundWriter(), bus, sealer or Sealer(), EntryFacts()
    return SnapshotShelf(frozenset({KIND}), guarded, *given), told


def layers_of(number):
    torch.manual_seed(number)
    return [
        {"k": torch.randn(2, 5, 4), "position": torch.arange(10, dtype=torch.int32).reshape(2, 5)},
        {
            "state.0": torch.randn(3, 3).to(torch.bfloat16),
            "token": torch.tensor([7]),
            "flops": torch.tensor([2.0]).double(),
        },
    ]


def same(one, other):
    pairs = zip(one, other, strict=True)
    return all(a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a) for a, b in pairs)


def test_the_longest_snapshot_of_the_first_tokens_is_found_bit_for_bit_after_reopening(tmp_path):
    shelf, told = shelf_of(DiskTier(root=tmp_path))
    ids = ids_of(1, 300)
    for stop in (70, 128, 200):
        assert shelf.put(SPACE, KIND, ids[:stop], layers_of(stop), error=stop / 1000)
    assert shelf.put(SPACE, KIND, ids_of(2, 250), layers_of(0))
    shelf.writer.flush()
    assert [event.tokens for event in told if isinstance(event, Stored)] == [70, 128, 200, 250]
    again, told = shelf_of(DiskTier(root=tmp_path))
    for most, least, stop in ((300, 0, 200), (200, 0, 200), (199, 0, 128), (127, 69, 70), (300, 199, 200)):
        found = again.find(SPACE, KIND, ids, least, most)
        assert (found.stop, found.tier, found.error) == (stop, "disk", stop / 1000)
        assert same(found.layers, layers_of(stop))
    assert again.error == 0.2
    assert len([event for event in told if isinstance(event, TierRead)]) == 5
    for most, least in ((300, 200), (69, 0), (199, 128)):
        assert again.find(SPACE, KIND, ids, least, most) is None


@pytest.mark.parametrize("change", ["a token", "tenant", "model", "dtype", "lineage", "kind"])
def test_what_differs_in_anything_is_not_found(tmp_path, change):
    shelf, _ = shelf_of(DiskTier(root=tmp_path))
    ids = ids_of(1, 100)
    shelf.put(SPACE, KIND, ids, layers_of(1))
    shelf.writer.flush()
    space = Space(**(vars(SPACE) | {change: "other"})) if change in vars(SPACE) else SPACE
    asked = (*ids[:50], 5000, *ids[51:]) if change == "a token" else ids
    assert shelf.find(space, "other" if change == "kind" else KIND, (*asked, 1), 0, 100) is None
    assert shelf.find(SPACE, KIND, (*ids, 1), 0, 100).stop == 100


def test_too_few_tokens_are_not_worth_it(tmp_path):
    shelf, _ = shelf_of(DiskTier(root=tmp_path))
    assert not shelf.put(SPACE, KIND, ids_of(1, LEAST - 1), layers_of(1))
    assert shelf.put(SPACE, KIND, ids_of(1, LEAST), layers_of(1))
    shelf.writer.flush()
    assert shelf.find(SPACE, KIND, (*ids_of(1, LEAST), 1), 0, LEAST).stop == LEAST


def test_a_refused_snapshot_is_gone_and_the_next_one_is_found(tmp_path):
    shelf, told = shelf_of(HostTier(writes="through"), DiskTier(root=tmp_path))
    ids = ids_of(1, 200)
    for stop in (100, 150):
        shelf.put(SPACE, KIND, ids[:stop], layers_of(stop))
    shelf.writer.flush()
    for tier, stop in (("host", 150), ("disk", 150), ("host", 100)):
        found = shelf.find(SPACE, KIND, ids, 0, 200)
        assert (found.tier, found.stop) == (tier, stop)
        found.refuse("its numbers are another's")
    assert [event.why for event in told if isinstance(event, StoreFault)] == [
        "an entry was refused and dropped: its numbers are another's"
    ] * 3
    assert shelf.find(SPACE, KIND, ids, 0, 200).tier == "disk"


@pytest.mark.parametrize("how", ["flip", "cut", "noise"])
def test_damage_is_a_fault_and_what_is_whole_is_found(tmp_path, how):
    tier = DiskTier(root=tmp_path)
    shelf, told = shelf_of(tier)
    ids = ids_of(1, 200)
    for stop in (100, 150):
        shelf.put(SPACE, KIND, ids[:stop], layers_of(stop))
    shelf.writer.flush()
    (path,) = (path for path in tmp_path.rglob("*.safetensors") if path.stem.endswith("-150"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes({"flip": raw, "cut": raw[:-7], "noise": bytes(len(raw))}[how])
    assert shelf.find(SPACE, KIND, ids, 0, 200).stop == 100
    assert len([event for event in told if isinstance(event, StoreFault)]) == 1


def test_without_the_key_nobody_makes_a_snapshot_that_is_taken(tmp_path):
    poison, _ = shelf_of(DiskTier(root=tmp_path))
    poison.put(SPACE, KIND, ids_of(1, 100), layers_of(1))
    poison.writer.flush()
    ours = Sealer(b"ours")
    shelf, told = shelf_of(DiskTier(root=tmp_path, sealer=ours), sealer=ours)
    assert shelf.find(SPACE, KIND, (*ids_of(1, 100), 1), 0, 100) is None
    assert "seal" in next(event.why for event in told if isinstance(event, StoreFault))
