"""The remote tier: entries as objects in a folder of any file system that fsspec opens (S3, GCS, SFTP, …).

Each process keeps an index of its own in memory: it lists the folder when it opens it, and again when something was not
found and the last look is a while ago, and reads the heads of what it does not know yet. So entries of others appear
with a delay.

No server counts for all, and yet ``limit`` holds for all who use the folder with it: who is to write something says so
first, in an object whose name has its bytes, and lists the folder then. It writes only where entries and all such
announcements fit. Of two who do so at once at least one sees the other. That is one small write, two listings and one
removal more for each entry, and only with a ``limit``; what to evict is chosen by the uses that this process knows of.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import fsspec

from nbkv.stores.tiers.entry import Entry, lying_entry
from nbkv.stores.tiers.head import Damaged, Sealer, head_size, parse
from nbkv.stores.tiers.indexed.index import EntryIndex
from nbkv.stores.tiers.indexed.indexed_tier import IndexedTier
from nbkv.stores.tiers.key import EntryKey

SUFFIX = ".safetensors"
_FIRST = 2**16  # bytes that are read of an entry not known yet: most heads are shorter
_ABANDONED_S = 3600.0  # an announcement that is older is of somebody who has died
_OBJECTS = {"s3", "s3a", "gs", "gcs", "abfs", "az", "adl", "oss", "memory"}  # there what is written appears at once


@dataclass(eq=False)
class RemoteTier(IndexedTier):
    """Entries below the URL ``url``, which may hold credentials and is shown nowhere.

    The folder is listed again when something is not found ``refresh_s`` seconds after the last time.
    """

    name: str = ""
    url: str = field(kw_only=True, repr=False)
    sealer: Sealer = field(default_factory=Sealer, kw_only=True)
    refresh_s: float = field(default=30.0, kw_only=True)
    options: dict[str, Any] = field(default_factory=dict, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        """Open the file system and list what is there."""
        with self._talking():
            self._fs, root = fsspec.core.url_to_fs(self.url, **self.options)
            self._root, self._announced = (root.rstrip("/") + name for name in ("/entries", "/announced"))
        scheme = self.url.partition("://")[0]
        self.name = self.name or ("memory://" if scheme == "memory" else scheme)  # the memory of requests is another
        self.index = EntryIndex(None, self.policy, list, self._remove, self.clock)
        self._looked = -self.refresh_s
        self.look()

    def get(self, key: EntryKey) -> Entry | None:
        """Return the entry of ``key``, of which each layer is one read."""
        path = self._path(key)
        with self._talking():
            try:
                first = self._fs.cat_file(path, start=0, end=_FIRST)
            except FileNotFoundError:
                self.index.forget(key)
                return None
            entry = self._entry(path, first, key)
            size = self._fs.info(path)["size"]
        if size != entry.nbytes:
            message = f"the object has {size} bytes of {entry.nbytes}"
            raise Damaged(message)
        return entry

    def put(self, entry: Entry) -> bool:
        """Write ``entry`` unless it is there."""
        if not self.limit:
            return self._put(entry, 0)
        if entry.nbytes > self.limit:
            return False
        with self._announcing(entry.nbytes) as announcement:
            taken = self._bytes_announced(but=announcement)  # before the entries: one becomes the other
            taken += self.look()
            return self.limit - taken >= entry.nbytes and self._put(entry, self.limit - taken)

    def _put(self, entry: Entry, limit: int) -> bool:
        """Write ``entry`` unless it is there, where all that this process knows of takes at most ``limit`` bytes."""
        key, path = entry.header.key, self._path(entry.header.key)
        with self._talking():
            wanted, evicted = self.index.reserve(entry.header, entry.nbytes, limit)
        self.counts.evictions += len(evicted)
        if not wanted:
            return key in set(self.keys())
        try:
            layers = (piece for layer in range(entry.n_layers) for piece in entry.pieces(layer))
            data = b"".join([entry.head, *layers])
            with self._talking():
                self._write(path, data)
        except BaseException:
            self.index.forget(key)
            raise
        self.index.ready(entry.header)
        return True

    def drop(self, key: EntryKey) -> bool:
        """Delete the object."""
        known = self.index.forget(key)
        with self._talking():
            self._remove(key)
        return known

    def find(self, marks: Sequence[str]) -> dict[str, list[EntryKey]]:
        """Return the keys of entries found by ``marks``; looks again if there are none and the last look is old."""
        found = self.index.find(marks)
        if not found and self.clock() - self._looked >= self.refresh_s:
            self.look()
            found = self.index.find(marks)
        return found

    def collect(self) -> tuple[int, int]:
        """Delete what has expired, what is over the limit, and announcements of those who have died."""
        unreadable = self.look()
        with self._talking():
            gone = self.index.expire()
            gone += self.index.shrink(max(0, self.limit - unreadable)) if self.limit else []
            for path in self._list(self._announced):
                if not self._announces(path):
                    self._fs.rm_file(path)
        self.counts.evictions += len(gone)
        return len(gone), sum(row.nbytes for row in gone)

    def look(self) -> int:
        """List the folder, and read the heads of what is not known yet; return the bytes of what cannot be read."""
        self._looked = self.clock()
        with self._talking():
            sizes = {path: size for path, size in self._list(self._root).items() if path.endswith(SUFFIX)}
            there = {key: path for path in sizes if (key := _key(path)) is not None}
            known = set(self.keys())
            for key in known - there.keys():
                self.index.forget(key)
            new = [(key, there[key]) for key in there.keys() - known]
            firsts = self._fs.cat_ranges([path for _, path in new], 0, _FIRST, on_error="return") if new else []
            for (key, path), first in zip(new, firsts, strict=True):
                with contextlib.suppress(Damaged, FileNotFoundError):  # the next who asks for it will be told
                    if isinstance(first, bytes):
                        entry = self._entry(path, first, key)
                        self.index.add(entry.header, entry.nbytes)
            readable = set(self.keys())
            return sum(size for path, size in sizes.items() if _key(path) not in readable)

    def close(self) -> None:
        """Forget what was seen."""
        self.index.close()

    def _entry(self, path: str, first: bytes, key: EntryKey) -> Entry:
        size = head_size(first[:8])
        head = first[:size] if len(first) >= size else self._fs.cat_file(path, start=0, end=size)
        header = parse(head, self.sealer, key)

        def read(layer: int) -> list[bytes]:
            start = size + header.offsets[layer]
            with self._talking():
                return [bytes(self._fs.cat_file(path, start=start, end=start + header.sizes[layer]))]

        return lying_entry(header, head, read)

    def _write(self, path: str, data: bytes) -> None:
        protocols = {self._fs.protocol} if isinstance(self._fs.protocol, str) else set(self._fs.protocol)
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        if protocols & _OBJECTS:
            self._fs.pipe_file(path, data)
            return
        draft = f"{path}.{uuid.uuid4().hex}.tmp"
        self._fs.pipe_file(draft, data)
        self._fs.mv(draft, path)

    def _remove(self, key: EntryKey) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def _list(self, folder: str) -> dict[str, int]:
        self._fs.invalidate_cache()
        try:
            return {path: int(info["size"] or 0) for path, info in self._fs.find(folder, detail=True).items()}
        except FileNotFoundError:
            return {}

    @contextlib.contextmanager
    def _announcing(self, nbytes: int) -> Iterator[str]:
        """Within the block others know that so many bytes are about to be written."""
        path = f"{self._announced}/{int(self.clock())}-{nbytes}-{uuid.uuid4().hex}"
        with self._talking():
            self._fs.makedirs(self._announced, exist_ok=True)
            self._fs.pipe_file(path, b"-")
        try:
            yield path
        finally:
            with contextlib.suppress(OSError), self._talking():
                self._fs.rm_file(path)

    def _bytes_announced(self, but: str) -> int:
        """Return the bytes that others are about to write."""
        own = but.rpartition("/")[2]
        with self._talking():
            paths = self._list(self._announced)
        return sum(self._announces(path) for path in paths if path.rpartition("/")[2] != own)

    def _announces(self, path: str) -> int:
        """Return the bytes that an announcement says; 0 where it is too old."""
        made, _, rest = path.rpartition("/")[2].partition("-")
        nbytes = rest.partition("-")[0]
        if not (made.isdecimal() and nbytes.isdecimal()) or self.clock() - int(made) > _ABANDONED_S:
            return 0
        return int(nbytes)

    def _path(self, key: EntryKey) -> str:
        return f"{self._root}/{key.digest[:2]}/{key}{SUFFIX}"

    @staticmethod
    @contextlib.contextmanager
    def _talking() -> Iterator[None]:
        """Within the block what goes wrong is an ``OSError``, whatever a file system calls it; it names no URL."""
        try:
            yield
        except (Damaged, MemoryError, ImportError):
            raise
        except Exception as error:  # noqa: BLE001  (each file system has errors of its own)
            message = f"the file system says {type(error).__name__}"
            raise OSError(message) from None


def _key(path: str) -> EntryKey | None:
    return EntryKey.read(path.rpartition("/")[2].removesuffix(SUFFIX))
