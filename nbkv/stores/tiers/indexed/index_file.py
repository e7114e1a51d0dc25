"""The SQLite file under an index: opened when it is asked, shared by processes, and made anew where it is broken."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_WAIT_S = 20.0  # for another process's transaction
_SCHEMA = """
CREATE TABLE IF NOT EXISTS entries (
    key TEXT PRIMARY KEY, bytes INTEGER NOT NULL, uses INTEGER NOT NULL, tick INTEGER NOT NULL, score REAL NOT NULL,
    priority INTEGER NOT NULL, pinned INTEGER NOT NULL, made REAL NOT NULL, ttl REAL NOT NULL,
    seconds REAL NOT NULL, rank REAL NOT NULL, tokens INTEGER NOT NULL, ready INTEGER NOT NULL, writer TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS next_to_go ON entries (pinned, ready, priority, score);
CREATE TABLE IF NOT EXISTS marks (mark TEXT, key TEXT, PRIMARY KEY (mark, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS marks_of ON marks (key);
CREATE TABLE IF NOT EXISTS figures (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO figures VALUES ('bytes', 0), ('entries', 0), ('tokens', 0), ('tick', 0), ('floor', 0);
CREATE TRIGGER IF NOT EXISTS counted AFTER INSERT ON entries BEGIN
    UPDATE figures SET value = value + new.bytes WHERE name = 'bytes';
    UPDATE figures SET value = value + 1 WHERE name = 'entries';
    UPDATE figures SET value = value + new.tokens WHERE name = 'tokens';
END;
CREATE TRIGGER IF NOT EXISTS discounted AFTER DELETE ON entries BEGIN
    DELETE FROM marks WHERE key = old.key;
    UPDATE figures SET value = value - old.bytes WHERE name = 'bytes';
    UPDATE figures SET value = value - 1 WHERE name = 'entries';
    UPDATE figures SET value = value - old.tokens WHERE name = 'tokens';
END;
"""


class IndexFile:
    """Transactions on the file ``path``, or in memory where that is None. Errors are ``OSError``.

    ``fill`` puts everything there is into a file that is made.
    """

    def __init__(self, path: Path | None, fill: Callable[[sqlite3.Connection], None]) -> None:
        """Open nothing yet."""
        self.path, self._put_all = path, fill
        self._lock = threading.RLock()
        self._open: sqlite3.Connection | None = None
        self._of = 0, 0

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._open is not None:
                self._open.close()
            self._open, self._of = None, (0, 0)

    def begin_anew(self) -> None:
        """Delete the file; the next transaction makes another."""
        self.close()
        if self.path is not None:
            for name in (self.path.name, f"{self.path.name}-wal", f"{self.path.name}-shm"):
                self.path.with_name(name).unlink(missing_ok=True)

    @contextmanager
    def transaction(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        """Give the connection; what the block did holds once it ends, and none of it where it raises."""
        with self._lock:
            try:
                db = self._connection()
                db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    yield db
                except BaseException:
                    db.rollback()
                    raise
                db.commit()
            except sqlite3.OperationalError as error:
                message = f"the index of the store cannot be used now: {error}"
                raise OSError(message) from error
            except sqlite3.Error as error:
                self.begin_anew()
                message = f"the index of the store was broken and will be made anew: {error}"
                raise OSError(message) from error

    def _connection(self) -> sqlite3.Connection:
        if self.path is None:
            if self._open is None:
                self._open = self._connect(":memory:")
                self._fill(self._open)
            return self._open
        now = self._identity()
        if self._open is None or now != self._of:
            self.close()
            if now == (0, 0):
                self._make()
            self._open = self._connect(str(self.path))
            self._of = self._identity()
            if self._open.execute("SELECT 1 FROM figures WHERE name = 'whole'").fetchone() is None:
                message = "it was not written to its end"
                raise sqlite3.DatabaseError(message)
        return self._open

    def _identity(self) -> tuple[int, int]:
        """Return which file there is, and the process: another one's connection must not be used."""
        try:
            return Path(self.path or "").stat().st_ino, os.getpid()
        except OSError:
            return 0, 0

    def _make(self) -> None:
        """Make the file under another name and put it in place whole, unless another process was faster."""
        assert self.path is not None  # noqa: S101
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        draft.unlink(missing_ok=True)
        db = sqlite3.connect(draft, isolation_level=None)
        try:
            db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)
            self._fill(db)
        finally:
            db.close()
        with contextlib.suppress(FileExistsError):
            os.link(draft, self.path)
        draft.unlink()

    def _fill(self, db: sqlite3.Connection) -> None:
        db.execute("BEGIN")
        self._put_all(db)
        db.execute("INSERT INTO figures VALUES ('whole', 1)")
        db.execute("COMMIT")

    @staticmethod
    def _connect(name: str) -> sqlite3.Connection:
        db = sqlite3.connect(name, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;" + _SCHEMA)
        return db
