"""The disk tier: one safetensors file an entry, in a folder that several processes may share without a server.

A file is written under a temporary name, made durable and renamed, so that nobody ever sees half of one. Layers are
read by position into memory of their own, one by one; they are not mapped, since a mapped file that somebody cuts short
kills the process that looks at it. A file that is evicted while it is read stays readable to the end.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nbkv.stores.tiers.entry import Entry, Receivable, lying_entry
from nbkv.stores.tiers.head import Bytes, Damaged, EntryHeader, Sealer, head_size, parse
from nbkv.stores.tiers.indexed.index import EntryIndex
from nbkv.stores.tiers.indexed.indexed_tier import IndexedTier
from nbkv.stores.tiers.key import EntryKey

SUFFIX = ".safetensors"
_ENTRIES, _INDEX = "entries", "index.sqlite"
_STRIP = 2**18  # bytes that are read at a time: they are still in a processor's cache when their digest is taken
_MOST = 512  # places that are read to at a time
_ABANDONED_S = 3600.0  # a temporary file that nobody has touched for so long


class OpenFile:
    """A file open for reading by position, closed when nobody holds it any more."""

    def __init__(self, path: Path) -> None:
        """Open ``path``."""
        self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._number).st_size

    def __del__(self) -> None:
        """Close it."""
        if hasattr(self, "_number"):
            os.close(self._number)

    def read(self, start: int, size: int) -> memoryview:
        """Return up to ``size`` bytes from ``start`` on; fewer where the file ends before."""
        into = memoryview(bytearray(size))
        return into[: self.fill([into], start)]

    def fill(self, into: Sequence[memoryview], start: int) -> int:
        """Read from ``start`` on into one place after another; return how many bytes, fewer where the file ends."""
        done, rest = 0, list(into)
        while rest and (got := os.preadv(self._number, rest, start + done)):
            done += got
            while rest and got >= rest[0].nbytes:
                got -= rest.pop(0).nbytes
            if got:
                rest[0] = rest[0][got:]
        return done


@dataclass(frozen=True)
class FileSpan(Receivable):
    """The bytes of ``file`` from ``start`` on."""

    file: OpenFile
    start: int

    def receive(self, into: Sequence[memoryview]) -> Iterator[memoryview]:
        """Read a few strips at a time, and yield each."""
        at = self.start
        for strips in _at_once(into):
            wanted = sum(strip.nbytes for strip in strips)
            got = self.file.fill(strips, at)
            if got < wanted:
                yield memoryview(b"".join(strips))[:got]
                return
            yield from strips
            at += got


@dataclass(eq=False)
class DiskTier(IndexedTier):
    """Entries in the folder ``root``; what ``policy`` scores lowest is evicted first."""

    name: str = "disk"
    root: Path = field(kw_only=True)
    sealer: Sealer = field(default_factory=Sealer, kw_only=True)

    def __post_init__(self) -> None:
        """Make the folder, and finish or undo what a process that was killed has left."""
        self.root = self.root.expanduser()
        (self.root / _ENTRIES).mkdir(parents=True, exist_ok=True)
        self.index = EntryIndex(self.root / _INDEX, self.policy, self._lying_there, self._remove, self.clock)
        with contextlib.suppress(OSError):  # an index that was broken is made anew by the next question
            self.index.figure("bytes")
        self._recover()

    def get(self, key: EntryKey) -> Entry | None:
        """Return the entry of ``key``; its file stays open as long as the entry is held."""
        try:
            file = OpenFile(self._path(key))
        except FileNotFoundError:
            return None
        return open_entry(file, self.sealer, key)

    def put(self, entry: Entry) -> bool:
        """Write ``entry`` unless it is there; returns whether it is there afterwards."""
        key = entry.header.key
        if self.limit and entry.nbytes > self.limit:
            return False
        wanted, evicted = self.index.reserve(entry.header, entry.nbytes, self.limit)
        self.counts.evictions += len(evicted)
        if not wanted:
            return self._path(key).exists()
        try:
            self._write(entry)
            if not self.index.ready(entry.header):
                self._remove(key)
                return False
        except BaseException:
            with contextlib.suppress(OSError):
                self._remove(key)
                self.index.forget(key)
            raise
        return True

    def drop(self, key: EntryKey) -> bool:
        """Delete the entry's file."""
        known = self.index.forget(key)
        there = self._path(key).exists()
        self._remove(key)
        return known or there

    def collect(self) -> tuple[int, int]:
        """Delete what has expired, what is over the limit, and what killed processes left; return entries and bytes."""
        gone = self.index.expire() + (self.index.shrink(self.limit) if self.limit else [])
        self._recover()
        known = {row.key for row in self.index.rows()}
        stray, freed = 0, sum(row.nbytes for row in gone)
        for path in self._files(""):
            key = EntryKey.read(path.name.removesuffix(SUFFIX)) if path.name.endswith(SUFFIX) else None
            if key in known:
                continue
            with contextlib.suppress(OSError):
                found = path.stat()
                if self.clock() - found.st_mtime > _ABANDONED_S:
                    path.unlink()
                    stray, freed = stray + 1, freed + found.st_size
        self.counts.evictions += len(gone)
        return len(gone) + stray, freed

    def close(self) -> None:
        """Close the index."""
        self.index.close()

    def _path(self, key: EntryKey) -> Path:
        return self.root / _ENTRIES / key.digest[:2] / f"{key}{SUFFIX}"

    def _write(self, entry: Entry) -> None:
        path = self._path(entry.header.key)
        path.parent.mkdir(exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            try:
                os.lseek(number, entry.head_nbytes, os.SEEK_SET)
                for layer in range(entry.n_layers):
                    for piece in entry.pieces(layer):
                        _write_all(number, piece)
                os.lseek(number, 0, os.SEEK_SET)
                _write_all(number, entry.head)  # last: its digests may have been under way
                os.fsync(number)
            finally:
                os.close(number)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise

    def _remove(self, key: EntryKey) -> None:
        self._path(key).unlink(missing_ok=True)

    def _recover(self) -> None:
        """Finish or undo what processes that have died were writing."""
        for key in self.index.abandoned():
            try:
                entry = self.get(key)
            except Damaged:
                entry = None
            if entry is not None:
                self.index.add(entry.header, entry.nbytes)
                continue
            self._remove(key)
            self.index.forget(key)
            for draft in self._path(key).parent.glob(f".{key}{SUFFIX}.*.tmp"):
                draft.unlink(missing_ok=True)

    def _lying_there(self) -> Iterator[tuple[EntryHeader, int]]:
        """Yield what an index made anew has to know; files that are no entries are left to ``collect``."""
        for path in self._files(SUFFIX):
            key = EntryKey.read(path.name.removesuffix(SUFFIX))
            try:
                entry = None if key is None else self.get(key)
            except (Damaged, OSError):
                continue
            if entry is not None:
                yield entry.header, entry.nbytes

    def _files(self, suffix: str) -> Iterator[Path]:
        for folder in sorted((self.root / _ENTRIES).iterdir()):
            if folder.is_dir():
                yield from (path for path in sorted(folder.iterdir()) if path.name.endswith(suffix))


def open_entry(file: OpenFile, sealer: Sealer, key: EntryKey | None = None) -> Entry:
    """Return the entry in ``file``; raises ``Damaged`` where its head or its size is not that of ``key``."""
    head = bytes(file.read(0, head_size(bytes(file.read(0, 8)))))
    header = parse(head, sealer, key)
    if file.size != len(head) + sum(header.sizes):
        message = f"the file has {file.size} bytes of {len(head) + sum(header.sizes)}"
        raise Damaged(message)
    return lying_entry(header, head, lambda layer: FileSpan(file, len(head) + header.offsets[layer]))


def _at_once(into: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """Yield ``into`` cut in strips, as many together as make one of full size."""
    some: list[memoryview] = []
    size = 0
    for strip in (each[at : at + _STRIP] for each in into for at in range(0, each.nbytes, _STRIP)):
        if some and (size + strip.nbytes > _STRIP or len(some) == _MOST):
            yield some
            some, size = [], 0
        some.append(strip)
        size += strip.nbytes
    if some:
        yield some


def _write_all(number: int, data: Bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(number, rest) :]
