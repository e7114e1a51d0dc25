"""Five methods make a tier: one in a dict serves a store as the bundled ones do."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from entries import SPACE, entry, ids_of
from path_kv import same, truth

from nbkv.stores.memory import MemoryStore
from nbkv.stores.tiered import TieredStore
from nbkv.stores.tiers.base import Tier
from nbkv.stores.tiers.key import PathKeys


@dataclass(eq=False)
class DictTier(Tier):
    name: str = "dict"
    entries: dict = field(default_factory=dict)

    def get(self, key):
        return self.entries.get(key)

    def put(self, entry):
        blobs = [[bytes(entry.blob(layer))] for layer in range(entry.n_layers)]
        self.entries[entry.header.key] = replace(entry, read=blobs.__getitem__, made=False)
        return True

    def drop(self, key):
        return self.entries.pop(key, None) is not None

    def keys(self):
        return iter(tuple(self.entries))

    @property
    def nbytes(self):
        return sum(each.nbytes for each in self.entries.values())

    def close(self):
        self.entries.clear()


def test_the_defaults_go_by_the_five_methods():
    tier, made = DictTier(), [entry(ids_of(i, 70 + i)) for i in range(3)]
    for each in made:
        tier.put(each)
    assert tier.find([*made[1].header.marks, "none"]) == {mark: [made[1].header.key] for mark in made[1].header.marks}
    assert [each and each.header for each in tier.get_many([made[2].header.key, PathKeys(SPACE, [1]).entry(0, 1)])] == [
        made[2].header,
        None,
    ]
    assert (len(tier), tier.tokens) == (3, 213)
    assert [row.key for row in tier.rows()] == [each.header.key for each in made]
    assert not tier.keep(made[0].header.key, made[0].header.facts)
    assert tier.collect() == (0, 0)


def test_a_tier_of_five_methods_serves_a_store():
    store, ids = TieredStore(MemoryStore(2**30), [DictTier()]), ids_of(1, 200)
    assert store.put(SPACE, ids, 0, truth(ids, 0, 200)) == 200
    store.flush()
    store.clear()
    with store.reading(SPACE, ids) as views:
        ((at, kv),) = views
        assert (at, same(kv, truth(ids, 0, 200))) == (0, True)
    assert [tier["tier"] for tier in store.figures()] == ["memory", "dict"]
