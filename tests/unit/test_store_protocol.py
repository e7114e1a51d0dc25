"""``nbkv.stores.base.Store``: the memory store has every member of it, and a store of one's own can take its place.

That ``MemoryStore`` has the signatures too is mypy's to check: ``open_store`` returns one as a ``Store``.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import get_type_hints

import pandas as pd
import pytest

from nbkv.events import Bus
from nbkv.stores.base import Lease, ScratchSpaces, Store
from nbkv.stores.memory import MemoryStore
from nbkv.stores.spec import open_store

MEMBERS = {name for name in vars(Store) if not name.startswith("_")} | set(Store.__annotations__)
METHODS = sorted(name for name in MEMBERS if inspect.isfunction(getattr(Store, name, None)))


@dataclass
class NoStore:
    """Keeps nothing: every take is a miss."""

    name: str = "none"
    limit: int = 0
    scratch_spaces: ScratchSpaces = field(default_factory=ScratchSpaces)
    nbytes: int = 0
    snapshots: None = None
    open: int = 0
    ended: list[str] = field(default_factory=list)

    def take(self, space, ids, limit, new, *, states_from=None, branch_at=None, layerwise=False):
        self.open += 1
        return Lease(space, new())

    def give(self, lease, ids, checkpoints=()):
        self.open -= 1
        self.ended.append("given")

    def discard(self, lease):
        self.open -= 1
        self.ended.append("discarded")

    def put(self, space, ids, start, kv):
        return 0

    @contextmanager
    def reading(self, space, ids, start=0, *, layerwise=False):
        yield []

    def holds(self, space, ids):
        return 0

    def loads(self, space, ids, start=0):
        return []

    def keep(self, space, ids, how):
        return 0

    def rank(self, space, ids, rank):
        self.ended.append(f"ranked {rank:.2f}")

    def flush(self):
        self.ended.append("flushed")

    def clear(self):
        self.scratch_spaces.clear()

    def close(self):
        self.ended.append("closed")

    @property
    def tiers(self):
        return pd.DataFrame(self.figures())

    def figures(self):
        counts = (
            "entries",
            "tokens",
            "bytes",
            "limit",
            "hits",
            "misses",
            "evictions",
            "faults",
            "checkpoints",
            "state_bytes",
        )
        return [{"tier": self.name} | dict.fromkeys(counts, 0)]

    def ls(self):
        return pd.DataFrame(columns=["tokens", "used"])


def test_the_protocol_has_what_is_leased_read_and_reported():
    leased = {"take", "give", "put", "discard", "reading", "holds", "loads", "keep", "rank", "flush", "clear", "close"}
    assert leased | {"figures", "ls"} == set(METHODS)
    assert {"name", "limit", "scratch_spaces", "nbytes", "tiers", "snapshots"} == MEMBERS - set(METHODS)


@pytest.mark.parametrize("store", [MemoryStore(limit=2**20), NoStore()], ids=["memory", "none"])
def test_every_member_of_the_protocol_is_there(store):
    assert all(hasattr(store, name) for name in MEMBERS)
    for name in METHODS:
        ours, theirs = (list(inspect.signature(getattr(of, name)).parameters) for of in (store, Store))
        assert ours == theirs[1:], name


def test_the_memory_store_has_the_protocols_types():
    for name in METHODS:
        if name not in {"reading", "ls"}:  # a generator behind contextmanager; pandas is imported for types alone
            assert get_type_hints(getattr(MemoryStore, name)) == get_type_hints(getattr(Store, name)), name


@pytest.mark.parametrize("max_new_tokens", [1, 6])
def test_a_store_that_keeps_nothing_serves_prefix_with_the_tokens_of_full(session_of, words, max_new_tokens):
    store = NoStore()
    session = session_of(store=store, strategy="prefix")
    for _ in range(2):
        result = session.generate(words(20), max_new_tokens=max_new_tokens)
        full = session.generate(words(20), strategy="full", max_new_tokens=max_new_tokens)
        assert result.token_ids == full.token_ids
        assert (result.tokens.reused, result.tokens.fresh) == (0, result.tokens.prompt)
        assert "none" in result.kv_bytes

    assert session.store is store
    assert store.open == 0
    assert store.ended == ["given", "given"]
    assert session.stats.requests == 4


def test_a_request_that_breaks_discards_its_lease(session_of, words, monkeypatch):
    store = NoStore()
    session = session_of(store=store, strategy="prefix")
    monkeypatch.setattr(type(session.adapter), "prefill", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.generate(words(8), max_new_tokens=1)

    assert store.ended == ["discarded"]


def test_a_session_shares_its_scratch_space_with_a_store_it_was_lent_and_leaves_it_open(session_of, words):
    store = NoStore()
    session = session_of(store=store)
    session._ctx.scratch["strategy"] = 1
    session.store.clear()
    assert not session._ctx.scratch
    session.close()

    assert store.ended == []


@pytest.mark.parametrize("below", ["", "+disk:{}", "+disk:{}+memory://somewhere"])
def test_a_store_says_what_it_holds_in_a_line(tmp_path, below):
    store = open_store(f"memory{below.format(tmp_path / 'kv')}", Bus(), "cpu") if below else MemoryStore(limit=1000)
    told = repr(store)
    assert told.startswith(f"<{type(store).__name__}: memory 0 entries, 0 B")
    assert told.count(" entries") == len(store.tiers)
    assert " at 0x" not in told
