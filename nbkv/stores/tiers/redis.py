"""The Redis tier: of an entry the head and each layer are a string, so that layers are read as they are needed.

They are written under names of their own and renamed when all are there; what is never finished expires. The account
of bytes and the order of eviction are kept on the server by scripts, each of which runs alone, so that the budget holds
for all processes together. Times to live are the server's.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nbkv.stores.tiers.base import Tier, TierRow
from nbkv.stores.tiers.bulk_values import BulkValues, ServerString, talking
from nbkv.stores.tiers.entry import Entry, lying_entry
from nbkv.stores.tiers.head import Bytes, Damaged, EntryFacts, Sealer, parse
from nbkv.stores.tiers.indexed.policies import EntryUse, Policy, policy_of
from nbkv.stores.tiers.key import EntryKey

_AHEAD = 2**23  # bytes of layers that are asked for at once; those of larger entries go where they are wanted
_DRAFT_S = 600  # within which an entry must be written
_PRIORITY = 1e13  # more than any score

# Removes an entry with its marks, and takes it off the account. KEYS[1] is the prefix of all names.
_FORGET = """
local function forget(p, key)
    local facts = redis.call('HMGET', p .. 'facts:' .. key, 'bytes', 'tokens', 'marks', 'layers')
    local there = redis.call('DEL', p .. 'head:' .. key)
    for layer = 0, tonumber(facts[4] or '0') - 1 do redis.call('DEL', p .. 'layer:' .. key .. ':' .. layer) end
    redis.call('ZREM', p .. 'used', key)
    if facts[1] then
        redis.call('DECRBY', p .. 'bytes', facts[1])
        redis.call('DECRBY', p .. 'tokens', facts[2])
        redis.call('DEL', p .. 'facts:' .. key)
        redis.call('SREM', p .. 'keys', key)
        for mark in string.gmatch(facts[3], '%S+') do redis.call('SREM', p .. 'mark:' .. mark, key) end
    end
    return there
end
"""
# ARGV: key. Returns whether the entry was there.
_DROP = _FORGET + "return forget(KEYS[1], ARGV[1])"
# ARGV: bytes, limit. Evicts until there is room and books the bytes; returns how many were evicted, or -1: no room.
_RESERVE = (
    _FORGET
    + """
local p, need, limit, gone = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), 0
while limit > 0 and tonumber(redis.call('GET', p .. 'bytes') or '0') + need > limit do
    local lowest = redis.call('ZRANGE', p .. 'used', 0, 0, 'WITHSCORES')
    if #lowest == 0 then return -1 - gone end
    redis.call('SET', p .. 'floor', lowest[2])
    forget(p, lowest[1])
    gone = gone + 1
end
redis.call('INCRBY', p .. 'bytes', need)
return gone
"""
)
# Has an entry live for so many ms from now on; 0: for ever.
_LIVE = """
local function live(p, key, layers, ms)
    local function one(name)
        if tonumber(ms) > 0 then redis.call('PEXPIRE', name, ms) else redis.call('PERSIST', name) end
    end
    one(p .. 'head:' .. key)
    for layer = 0, layers - 1 do one(p .. 'layer:' .. key .. ':' .. layer) end
end
"""
# ARGV: draft, key, bytes, tokens, ttl in ms, layers, seconds, rank, priority, pinned, marks. The bytes are booked.
_COMMIT = (
    _LIVE
    + """
local p, draft, key, layers = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[6])
local there = redis.call('EXISTS', draft .. 'head')
for layer = 0, layers - 1 do there = there + redis.call('EXISTS', draft .. layer) end
if redis.call('EXISTS', p .. 'head:' .. key) == 1 or there <= layers then
    redis.call('DEL', draft .. 'head')
    for layer = 0, layers - 1 do redis.call('UNLINK', draft .. layer) end
    redis.call('DECRBY', p .. 'bytes', ARGV[3])
    return 0
end
redis.call('RENAME', draft .. 'head', p .. 'head:' .. key)
for layer = 0, layers - 1 do redis.call('RENAME', draft .. layer, p .. 'layer:' .. key .. ':' .. layer) end
live(p, key, layers, ARGV[5])
redis.call('INCRBY', p .. 'tokens', ARGV[4])
redis.call('SADD', p .. 'keys', key)
redis.call('HSET', p .. 'facts:' .. key, 'bytes', ARGV[3], 'tokens', ARGV[4], 'layers', layers, 'uses', 0,
    'seconds', ARGV[7], 'rank', ARGV[8], 'priority', ARGV[9], 'pinned', ARGV[10], 'marks', ARGV[11])
for mark in string.gmatch(ARGV[11], '%S+') do redis.call('SADD', p .. 'mark:' .. mark, key) end
return 1
"""
)
# ARGV: key, ttl in ms.
_KEEP = (
    _LIVE + "live(KEYS[1], ARGV[1], tonumber(redis.call('HGET', KEYS[1] .. 'facts:' .. ARGV[1], 'layers')), ARGV[2])"
)


@dataclass(eq=False)
class RedisTier(Tier):
    """Entries in the server at ``url``, which may hold a password and is shown nowhere; names begin with ``prefix``.

    An answer that takes longer than ``timeout_s`` is none.
    """

    name: str = "redis"
    url: str = field(kw_only=True, repr=False)
    policy: Policy = field(default_factory=lambda: policy_of("lru"), kw_only=True)
    sealer: Sealer = field(default_factory=Sealer, kw_only=True)
    timeout_s: float = field(default=2.0, kw_only=True)
    prefix: str = field(default="nbkv:", kw_only=True)

    def __post_init__(self) -> None:
        """Connect."""
        with talking():
            self.client: Any = redis.Redis.from_url(
                self.url,
                socket_timeout=self.timeout_s,
                socket_connect_timeout=self.timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
            scripts = [self.client.register_script(each) for each in (_DROP, _RESERVE, _COMMIT, _KEEP)]
            self._drop, self._reserve, self._commit, self._live = scripts
            self._bulk = BulkValues(self.client)
            self.client.ping()

    def get(self, key: EntryKey) -> Entry | None:
        """Return the entry of ``key``; its layers are read several at a time where they are small."""
        with talking():
            head: Any = self.client.get(f"{self.prefix}head:{key}")
            if head is None:
                self._drop(keys=[self.prefix], args=[str(key)])  # it has expired, or the server has evicted it itself
                return None
        header = parse(head, self.sealer, key)
        if sum(header.sizes) > _AHEAD:
            return lying_entry(
                header, head, lambda layer: ServerString(self._bulk, f"{self.prefix}layer:{key}:{layer}")
            )
        ahead: dict[int, memoryview | None] = {}
        lock = threading.Lock()

        def read(layer: int) -> list[memoryview]:
            with lock, talking():
                if layer not in ahead:
                    rest = range(layer, len(header.sizes))
                    answers = self._bulk.get(
                        [f"{self.prefix}layer:{key}:{each}" for each in rest], header.sizes[layer:]
                    )
                    ahead.update(zip(rest, answers, strict=True))
                data = ahead.pop(layer)
            if data is None:
                message = f"layer {layer} is gone"
                raise Damaged(message)
            return [data]

        return lying_entry(header, head, read)

    def put(self, entry: Entry) -> bool:
        """Write ``entry`` unless it is there."""
        key, header, facts = str(entry.header.key), entry.header, entry.header.facts
        if self.limit and entry.nbytes > self.limit:
            return False
        draft = f"{self.prefix}draft:{uuid.uuid4().hex}:"
        with talking():
            if self.client.exists(f"{self.prefix}head:{key}"):
                self.use([header.key])
                return True
            evicted = int(self._reserve(keys=[self.prefix], args=[entry.nbytes, self.limit]))
            self.counts.evictions += evicted if evicted >= 0 else -1 - evicted
            if evicted < 0:
                return False
            try:
                self._fill(draft, entry)
            except BaseException:
                with contextlib.suppress(redis.RedisError):
                    self.client.decrby(f"{self.prefix}bytes", entry.nbytes)
                    self.client.delete(f"{draft}head", *(f"{draft}{layer}" for layer in range(entry.n_layers)))
                raise
            what = [draft, key, *map(str, (entry.nbytes, len(header.ids), int(facts.ttl * 1000), entry.n_layers))]
            kept = [facts.seconds, facts.rank, facts.priority, int(facts.pinned), " ".join(header.marks)]
            new = self._commit(keys=[self.prefix], args=[*what, *map(str, kept)])
            self.use([header.key])
            return bool(new) or self.client.exists(f"{self.prefix}head:{key}") == 1

    def drop(self, key: EntryKey) -> bool:
        """Delete the entry's strings and its marks."""
        with talking():
            return bool(self._drop(keys=[self.prefix], args=[str(key)]))

    def keys(self) -> Iterator[EntryKey]:
        """Yield the key of every entry."""
        with talking():
            names = [name.decode() for name in self.client.smembers(f"{self.prefix}keys")]
        return (key for name in names if (key := EntryKey.read(name)) is not None)

    @property
    def nbytes(self) -> int:
        """Return the bytes of all entries, with those being written."""
        return self._figure("bytes")

    @property
    def tokens(self) -> int:
        """Return the tokens of all entries."""
        return self._figure("tokens")

    def __len__(self) -> int:
        """Return how many entries there are."""
        with talking():
            return int(self.client.scard(f"{self.prefix}keys"))

    def find(self, marks: Sequence[str]) -> dict[str, list[EntryKey]]:
        """Return the keys of entries found by ``marks``, all asked for at once."""
        with talking(), self.client.pipeline(transaction=False) as pipeline:
            for mark in marks:
                pipeline.smembers(f"{self.prefix}mark:{mark}")
            answers = pipeline.execute()
            named = [[EntryKey.read(name.decode()) for name in names] for names in answers]
            found = {mark: [key for key in keys if key] for mark, keys in zip(marks, named, strict=True)}
        return {mark: keys for mark, keys in found.items() if keys}

    def use(self, keys: Sequence[EntryKey]) -> None:
        """Note the use of ``keys``, the last one as the most recent."""
        with talking():
            floor = float(self.client.get(f"{self.prefix}floor") or 0)
            for key in keys:
                name = f"{self.prefix}facts:{key}"
                facts = self.client.hmget(name, ["bytes", "seconds", "rank", "priority", "pinned"])
                if facts[0] is None or facts[4] == b"1":
                    continue
                uses, tick = self.client.hincrby(name, "uses", 1), self.client.incr(f"{self.prefix}tick")
                use = EntryUse(tick, uses, int(facts[0]), float(facts[1]), float(facts[2]), floor % _PRIORITY)
                score = self.policy.score(use) + int(facts[3]) * _PRIORITY
                self.client.zadd(f"{self.prefix}used", {str(key): score})

    def rank(self, key: EntryKey, rank: float) -> None:
        """Note a use, and what it was worth."""
        with talking():
            name = f"{self.prefix}facts:{key}"
            if self.client.exists(name):
                self.client.hset(name, "rank", rank)
        self.use([key])

    def keep(self, key: EntryKey, facts: EntryFacts) -> bool:
        """Have an entry be kept as ``facts`` say."""
        with talking():
            name = f"{self.prefix}facts:{key}"
            if not self.client.exists(name):
                return False
            kept = {"priority": facts.priority, "pinned": int(facts.pinned)}
            self.client.hset(name, mapping=kept)
            self.client.zrem(f"{self.prefix}used", str(key))
            self._live(keys=[self.prefix], args=[str(key), str(int(facts.ttl * 1000))])
            self.use([key])
        return True

    def rows(self) -> Iterator[TierRow]:
        """Yield a row for each entry."""
        for key in self.keys():
            with talking():
                facts = self.client.hmget(f"{self.prefix}facts:{key}", ["bytes", "uses", "priority", "pinned"])
                used = self.client.zscore(f"{self.prefix}used", str(key)) or 0.0
            if facts[0] is not None:
                yield TierRow(key, int(facts[0]), used, int(facts[1]), int(facts[2]), facts[3] == b"1")

    def collect(self) -> tuple[int, int]:
        """Forget entries that have expired, and take off the account what was never finished."""
        gone, freed, held = 0, 0, 0
        for row in tuple(self.rows()):
            with talking():
                if self.client.exists(f"{self.prefix}head:{row.key}"):
                    held += row.nbytes
                    continue
                self._drop(keys=[self.prefix], args=[str(row.key)])
            gone, freed = gone + 1, freed + row.nbytes
        with talking():
            if not any(True for _ in self.client.scan_iter(f"{self.prefix}draft:*", count=1000)):
                self.client.set(f"{self.prefix}bytes", held)
        return gone, freed

    def close(self) -> None:
        """Close the connections."""
        with talking():
            self.client.close()

    def _fill(self, draft: str, entry: Entry) -> None:
        def strings() -> Iterator[tuple[str, Sequence[Bytes]]]:
            for layer in range(entry.n_layers):
                yield f"{draft}{layer}", entry.pieces(layer)
            yield f"{draft}head", [entry.head]  # last: its digests may have been under way

        self._bulk.set(strings(), _DRAFT_S)

    def _figure(self, name: str) -> int:
        with talking():
            return int(self.client.get(self.prefix + name) or 0)
