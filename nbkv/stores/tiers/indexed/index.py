"""The index of a folder of entries: one SQLite file, shared by all processes that use the folder.

It can always be made again from the entries themselves, so it is written without waiting for the disk, and where it is
missing or broken it is made anew. It keeps the account of bytes: room is reserved before a file is written.
"""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbkv.stores.tiers.base import TierRow
from nbkv.stores.tiers.head import EntryFacts, EntryHeader
from nbkv.stores.tiers.indexed.index_file import IndexFile
from nbkv.stores.tiers.indexed.policies import EntryUse, Policy
from nbkv.stores.tiers.key import EntryKey

_MOST = 500  # names in one question
_ROW = "key, bytes, tick, uses, priority, pinned, made, ttl"


@dataclass(eq=False)
class EntryIndex:
    """The rows and marks of entries in the SQLite file ``path``, or in memory where that is None.

    ``remake`` gives every entry there is, as a header and its bytes, when there is no file yet. ``remove`` deletes what
    a key names, and is called within the transaction that evicts it. Errors are ``OSError``.
    """

    path: Path | None
    policy: Policy
    remake: Callable[[], Iterable[tuple[EntryHeader, int]]]
    remove: Callable[[EntryKey], None]
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        """Open nothing yet."""
        self.file = IndexFile(self.path, self._fill)

    def find(self, marks: Sequence[str]) -> dict[str, list[EntryKey]]:
        """Return for each of ``marks`` the keys of ready entries that have it and have not expired."""
        found: dict[str, list[EntryKey]] = {}
        with self.file.transaction(write=False) as db:
            for at in range(0, len(marks), _MOST):
                some = marks[at : at + _MOST]
                question = f"""SELECT mark, {_ROW} FROM marks JOIN entries USING (key)
                    WHERE ready AND mark IN ({",".join("?" * len(some))})"""  # noqa: S608  (question marks)
                for mark, *row in db.execute(question, some):
                    if self._alive(made=row[6], ttl=row[7]):
                        found.setdefault(mark, []).append(_key(row[0]))
        return found

    def reserve(self, header: EntryHeader, nbytes: int, limit: int) -> tuple[bool, list[TierRow]]:
        """Make room for ``nbytes`` of ``header``; return whether this process is to write it now, and what was evicted.

        It is not where the entry is there already, another process writes it, or what may be evicted is too little.
        """
        evicted: list[TierRow] = []
        leaving: list[TierRow] = []
        while True:
            with self.file.transaction(write=True) as db:
                self._evict(db, leaving)
                evicted += leaving
                known = db.execute("SELECT ready, writer FROM entries WHERE key = ?", (str(header.key),)).fetchone()
                if known is not None and (known[0] or _alive_writer(known[1])):
                    self._use(db, [header.key])
                    return False, evicted
                over = self._figure(db, "bytes") + nbytes - limit if limit else 0.0
                if over <= 0:
                    if known is not None:
                        db.execute("DELETE FROM entries WHERE key = ?", (str(header.key),))
                    self._insert(db, header, nbytes, ready=False)
                    return True, evicted
                leaving = self._leaving(db, over)
                if not leaving:
                    return False, evicted

    def ready(self, header: EntryHeader) -> bool:
        """Note that the entry of ``header`` is written, to be found from now on; False: it was dropped meanwhile."""
        with self.file.transaction(write=True) as db:
            known = db.execute("UPDATE entries SET ready = 1 WHERE key = ?", (str(header.key),)).rowcount > 0
            if known:
                self._mark(db, header)
            return known

    def add(self, header: EntryHeader, nbytes: int) -> None:
        """Note an entry that was found lying there."""
        with self.file.transaction(write=True) as db:
            db.execute("DELETE FROM entries WHERE key = ?", (str(header.key),))
            self._insert(db, header, nbytes, ready=True)
            self._mark(db, header)

    def forget(self, key: EntryKey) -> bool:
        """Forget the entry of ``key``; return whether it was known."""
        with self.file.transaction(write=True) as db:
            return db.execute("DELETE FROM entries WHERE key = ?", (str(key),)).rowcount > 0

    def use(self, keys: Sequence[EntryKey]) -> None:
        """Note that the entries of ``keys`` were used, the last of them most recently."""
        with self.file.transaction(write=True) as db:
            self._use(db, keys)

    def rank(self, key: EntryKey, rank: float) -> None:
        """Note a use of the entry of ``key``, which a strategy thinks worth ``rank``."""
        with self.file.transaction(write=True) as db:
            db.execute("UPDATE entries SET rank = ? WHERE key = ?", (rank, str(key)))
            self._use(db, [key])

    def keep(self, key: EntryKey, facts: EntryFacts) -> bool:
        """Have the entry of ``key`` be kept as ``facts`` say: pinned or not, priority, time to live; False: unknown."""
        with self.file.transaction(write=True) as db:
            given = int(facts.pinned), facts.priority, self.clock(), facts.ttl, str(key)
            question = "UPDATE entries SET pinned = ?, priority = ?, made = ?, ttl = ? WHERE key = ?"
            return db.execute(question, given).rowcount > 0

    def expire(self) -> list[TierRow]:
        """Remove what has expired, pinned or not; return it."""
        with self.file.transaction(write=True) as db:
            rows = [_row(row) for row in db.execute(f"SELECT {_ROW} FROM entries WHERE ttl > 0 AND ready")]  # noqa: S608
            gone = [row for row in rows if not self._alive(made=row.made, ttl=row.ttl)]
            self._leave(db, gone)
        with self.file.transaction(write=True) as db:
            self._evict(db, gone)
        return gone

    def shrink(self, limit: int) -> list[TierRow]:
        """Evict until ``limit`` bytes are kept, or nothing more may go; return what went."""
        with self.file.transaction(write=True) as db:
            gone = self._leaving(db, self._figure(db, "bytes") - limit)
        with self.file.transaction(write=True) as db:
            self._evict(db, gone)
        return gone

    def abandoned(self) -> list[EntryKey]:
        """Return the keys of entries whose writer has died before it was done."""
        with self.file.transaction(write=False) as db:
            rows = db.execute("SELECT key, writer FROM entries WHERE NOT ready").fetchall()
        return [_key(key) for key, writer in rows if not _alive_writer(writer)]

    def rows(self) -> Iterator[TierRow]:
        """Yield every ready entry."""
        with self.file.transaction(write=False) as db:
            found = db.execute(f"SELECT {_ROW} FROM entries WHERE ready").fetchall()  # noqa: S608  (names of columns)
        return (_row(row) for row in found)

    def figure(self, name: str) -> int:
        """Return ``bytes``, ``entries`` or ``tokens``: those of all entries, with those being written."""
        with self.file.transaction(write=False) as db:
            return int(self._figure(db, name))

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    # inside a transaction

    def _insert(self, db: sqlite3.Connection, header: EntryHeader, nbytes: int, *, ready: bool) -> None:
        facts = header.facts
        given = (str(header.key), nbytes, 0, 0, 0.0, facts.priority, int(facts.pinned), facts.made or self.clock())
        more = (facts.ttl, facts.seconds, facts.rank, len(header.ids), int(ready), _writer())
        db.execute(f"INSERT INTO entries VALUES ({','.join('?' * 14)})", given + more)  # noqa: S608  (question marks)
        self._use(db, [header.key])

    @staticmethod
    def _mark(db: sqlite3.Connection, header: EntryHeader) -> None:
        db.executemany("INSERT OR IGNORE INTO marks VALUES (?, ?)", [(mark, str(header.key)) for mark in header.marks])

    def _use(self, db: sqlite3.Connection, keys: Sequence[EntryKey]) -> None:
        floor = self._figure(db, "floor")
        for key in keys:
            row = db.execute("SELECT uses, bytes, seconds, rank FROM entries WHERE key = ?", (str(key),)).fetchone()
            if row is None:
                continue
            db.execute("UPDATE figures SET value = value + 1 WHERE name = 'tick'")
            tick = int(self._figure(db, "tick"))
            use = EntryUse(tick, row[0] + 1, row[1], row[2], row[3], floor)
            given = use.uses, tick, self.policy.score(use), str(key)
            db.execute("UPDATE entries SET uses = ?, tick = ?, score = ? WHERE key = ?", given)

    @staticmethod
    def _next(db: sqlite3.Connection) -> TierRow | None:
        order = "WHERE NOT pinned AND ready ORDER BY pinned, ready, priority, score LIMIT 1"
        row = db.execute(f"SELECT {_ROW}, score FROM entries {order}").fetchone()  # noqa: S608  (names of columns)
        if row is None:
            return None
        db.execute("UPDATE figures SET value = max(value, ?) WHERE name = 'floor'", (row[-1],))
        return _row(row)

    def _leaving(self, db: sqlite3.Connection, over: float) -> list[TierRow]:
        """Choose what is to go so that ``over`` bytes are freed, as far as there is any, and note that it leaves."""
        found: list[TierRow] = []
        while over > 0 and (row := self._next(db)) is not None:
            self._leave(db, [row])
            found.append(row)
            over -= row.nbytes
        return found

    @staticmethod
    def _leave(db: sqlite3.Connection, rows: Sequence[TierRow]) -> None:
        """Let nobody find ``rows`` any more: files go only after this is written, for a process may die in between.

        They are then as those whose writer has died: finished or undone by whoever opens the folder next.
        """
        for row in rows:
            db.execute("UPDATE entries SET ready = 0, writer = ? WHERE key = ?", (_writer(), str(row.key)))

    def _evict(self, db: sqlite3.Connection, rows: Sequence[TierRow]) -> None:
        for row in rows:
            self.remove(row.key)
            db.execute("DELETE FROM entries WHERE key = ?", (str(row.key),))

    @staticmethod
    def _figure(db: sqlite3.Connection, name: str) -> float:
        return float(db.execute("SELECT value FROM figures WHERE name = ?", (name,)).fetchone()[0])

    def _alive(self, *, made: float, ttl: float) -> bool:
        """Return whether an entry has not expired; one made before the clock was set back lives on."""
        return not ttl or self.clock() - made < ttl

    def _fill(self, db: sqlite3.Connection) -> None:
        for header, nbytes in self.remake():
            self._insert(db, header, nbytes, ready=True)
            self._mark(db, header)


def _key(text: str) -> EntryKey:
    found = EntryKey.read(text)
    if found is None:
        message = f"the index of the store names an entry {text!r}"
        raise sqlite3.DatabaseError(message)
    return found


def _row(row: Sequence[Any]) -> TierRow:
    key, nbytes, tick, uses, priority, pinned, made, ttl = row[:8]
    return TierRow(_key(key), nbytes, tick, uses, priority, bool(pinned), made, ttl)


def _writer() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _alive_writer(writer: str) -> bool:
    """Return whether the process that writes an entry may still be at it; of another machine's nothing is known."""
    host, _, number = writer.rpartition(":")
    if host != socket.gethostname():
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
