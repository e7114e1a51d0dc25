"""``store.io``: putting KV into a tier and getting it back, against writing and reading the same bytes without one.

On disk the baseline writes each layer to one file, makes it durable and reads it; on Redis it sets and gets a value a
layer. Ours besides makes the entry, takes and checks every layer's digest, and keeps the index. A file is read, by
both, into the same memory that is there already, as a request's is: new memory costs more than a file that is at hand,
and what an allocator happens to have left would decide. Files are read while the operating system still has them in
memory, which is the harder case for ours. Before a put what is there is deleted, on both sides: a server that has just
freed a value of that size sets it faster.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nbkv.bench.measure import BenchRow, TimedCandidate, interleaved
from nbkv.events import Bus
from nbkv.kv import KV, Space
from nbkv.stores.reading.layer_reader import ArrivingSpan, LayerReader, LayerReads
from nbkv.stores.search import FoundSpan
from nbkv.stores.tiers.base import Tier
from nbkv.stores.tiers.disk import DiskTier
from nbkv.stores.tiers.entry import make_entry
from nbkv.stores.tiers.forms import AsItIs
from nbkv.stores.tiers.guard import GuardedTier
from nbkv.stores.tiers.head import EntryFacts, Sealer
from nbkv.stores.tiers.key import PathKeys
from nbkv.stores.writer import SharedWork

NAME, TOKENS, LAYERS, HEADS, DIM = "store.io", 4681, 28, 8, 128  # 1 GiB in float32, of the shape s06
SPACE = Space("store.io", "float32")


@dataclass(eq=False)
class IoWork:
    """KV of ``ids``, a tier to put it in, and a baseline that writes and reads the same layers; ``into``: where to."""

    tier: Tier
    raw: RawFile | RawRedis
    kv: KV
    ids: tuple[int, ...] = field(init=False)
    into: KV = field(init=False)

    def __post_init__(self) -> None:
        """Name the tokens, and have memory to read into that has been used."""
        self.ids = tuple(range(self.kv.length))
        self.into = self.kv.compact()
        self._guarded = GuardedTier(self.tier, Bus())
        self._reads: LayerReads = SharedWork()

    def forget(self) -> None:
        """Drop the entry, so that it can be put again."""
        self.tier.drop(PathKeys(SPACE, self.ids).entry(0, len(self.ids)))

    def put(self, _: object) -> None:
        """Make the entry and put it."""
        made = {"form": AsItIs(), "sealer": Sealer(), "facts": EntryFacts()}
        self.tier.put(make_entry(SPACE, self.ids, 0, self.kv, **made))  # type: ignore[arg-type]

    def get(self, _: object = None) -> None:
        """Find the entry and read all of it as a request does."""
        key, n = PathKeys(SPACE, self.ids).entry(0, len(self.ids)), len(self.ids)
        entry = self._guarded.get(key)
        assert entry is not None  # noqa: S101
        span = ArrivingSpan(FoundSpan(self._guarded, entry, 0, n), self.into)
        assert LayerReader([span], self._reads, Bus()).finish() == 1  # noqa: S101

    @staticmethod
    def layers(kv: KV) -> list[memoryview]:
        """Return the bytes of each tensor of ``kv``."""
        sides = [side for pair in zip(kv.keys, kv.values, strict=True) for side in pair]
        return [memoryview(side.reshape(-1).view(torch.uint8).numpy()) for side in sides]  # type: ignore[arg-type]

    def wrong(self) -> str:
        """Put and get once; return what is wrong with what comes back."""
        self.forget()
        self.put(None)
        for side in (*self.into.keys, *self.into.values):
            side.zero_()
        self.get()
        pairs = zip((*self.into.keys, *self.into.values), (*self.kv.keys, *self.kv.values), strict=True)
        return "" if all(torch.equal(a, b) for a, b in pairs) else "what comes back is not what was put"


class RawFile:
    """The layers in one plain file."""

    name = "a plain file"

    def __init__(self, path: Path) -> None:
        """Write to ``path``."""
        self._path = path

    def forget(self) -> None:
        """Delete the file."""
        self._path.unlink(missing_ok=True)

    def write(self, layers: list[memoryview]) -> None:
        """Write and make durable."""
        with self._path.open("wb") as file:
            for layer in layers:
                file.write(layer)
            file.flush()
            os.fsync(file.fileno())

    def read(self, into: list[memoryview]) -> None:
        """Read each layer."""
        with self._path.open("rb", buffering=0) as file:
            for view in into:
                rest = view
                while rest:
                    rest = rest[file.readinto(rest) or len(rest) :]


class RawRedis:
    """The layers as plain values of a Redis server."""

    name = "SET and GET"

    def __init__(self, client: Any) -> None:  # noqa: ANN401  (redis is an extra)
        """Use ``client``."""
        self._client = client

    def forget(self) -> None:
        """Delete the values."""
        if names := self._client.keys("raw:*"):
            self._client.delete(*names)

    def write(self, layers: list[memoryview]) -> None:
        """Set one value a layer."""
        for number, layer in enumerate(layers):
            self._client.set(f"raw:{number}", bytes(layer))

    def read(self, into: list[memoryview]) -> None:
        """Get them, as the client library does: in memory of their own."""
        for number in range(len(into)):
            self._client.get(f"raw:{number}")


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no model is loaded)
    """Measure put and get of ``context`` tokens' KV (1 GiB) on disk and on a Redis server of this machine."""
    tokens = context or TOKENS
    torch.manual_seed(0)
    sides = [torch.randn(HEADS, tokens, DIM) for _ in range(2 * LAYERS)]
    kv = KV(tuple(sides[::2]), tuple(sides[1::2]))
    regime = {"device": platform.machine(), "MiB": kv.nbytes >> 20, "rounds": rounds}
    with tempfile.TemporaryDirectory(prefix="nbkv-store-io-") as folder:
        tier = DiskTier(root=Path(folder))
        rows = _rows("disk", IoWork(tier, RawFile(Path(folder) / "raw"), kv), regime)
        tier.close()
        with redis_server(folder) as url:
            if url is None:
                return [*rows, _row(regime, "redis", "SET and GET", missing="redis-server is not installed")]
            from nbkv.stores.tiers.redis import RedisTier  # noqa: PLC0415  (an extra)

            redis = RedisTier(url=url, timeout_s=60)
            rows += _rows("redis", IoWork(redis, RawRedis(redis.client), kv), regime)
            redis.close()
    return rows


def _rows(what: str, io: IoWork, regime: dict[str, object]) -> list[BenchRow]:
    if why := io.wrong():
        return [_row(regime, what, io.raw.name, refused=why)]
    layers, into = io.layers(io.kv), io.layers(io.into)
    io.raw.write(layers)
    rounds = int(str(regime["rounds"]))
    puts = [
        TimedCandidate("raw", lambda _: io.raw.write(layers), io.raw.forget),
        TimedCandidate("ours", io.put, io.forget),
    ]
    gets = [TimedCandidate("raw", lambda _: io.raw.read(into)), TimedCandidate("ours", io.get)]
    rows = []
    for verb, candidates in (("put", puts), ("get", gets)):
        seconds = interleaved(candidates, rounds)
        speeds = f"{_speed(io, seconds['ours'])} against {_speed(io, seconds['raw'])}"
        figures: dict[str, Any] = {"baseline": seconds["raw"], "ours": seconds["ours"], "notes": (speeds,)}
        rows.append(_row(regime, f"{verb} on {what}", io.raw.name, **figures))
    return rows


def _speed(io: IoWork, seconds: float) -> str:
    return f"{io.kv.nbytes / seconds / 1e9:.2f} GB/s"


def _row(regime: dict[str, object], strategy: str, against: str, **figures: Any) -> BenchRow:  # noqa: ANN401  (fields of a row)
    return BenchRow(name=NAME, regime=regime, against=against, strategy=strategy, **figures)


@contextlib.contextmanager
def redis_server(folder: str) -> Iterator[str | None]:
    """Give the URL of a Redis server that lasts as long as the block; None where there is no program for one."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL)  # noqa: S603  (a server of this machine)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()
