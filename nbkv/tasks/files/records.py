"""Reads the records of a file, JSON lines or one JSON list, and says in one line what is wrong with one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NoReturn, Protocol, TypeVar

from nbkv.errors import BadOption, LoadError
from nbkv.scalars import is_whole
from nbkv.show.units import plural


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One question as the file has it: its ``data``, and ``where`` that is, for messages.

    ``accepted`` says what a record of this file looks like.
    """

    data: dict[str, Any]
    where: str
    accepted: str

    def get(self, key: str, kind: type) -> Any:  # noqa: ANN401  (of type `kind`)
        """Return the value of ``key``, which must be of type ``kind`` and not empty; raises ``LoadError``."""
        value = self.data.get(key)
        if not isinstance(value, kind) or value in ("", [], {}):
            self.refuse(f"has no {key!r}" if value is None else f"{key!r} is {value!r:.40}")
        return value

    def texts(self, key: str) -> list[str]:
        """Return the non-empty list of texts under ``key``; a single text makes a list of one."""
        value = self.data.get(key)
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not listed or not all(isinstance(text, str) and text for text in listed):
            self.refuse(f"has no {key!r}" if value is None else f"{key!r} is {value!r:.40}, not a list of texts")
        return listed

    def refuse(self, wrong: str) -> NoReturn:
        """Raise the error that says what is wrong here, and what is accepted."""
        message = f"{self.where}: {wrong} (accepted: {self.accepted})"
        raise LoadError(message)


def records(path: str | Path, accepted: str) -> list[FileRecord]:
    """Return the records of the file at ``path``: JSON lines (``.jsonl``), or one JSON list of objects.

    Raises ``LoadError`` that names the file and the line (in a list: the number of the item).
    """
    text, file = read_text(path, accepted), Path(path).expanduser()
    listed = text.lstrip().startswith("[")
    found = list(_listed(text, file, accepted) if listed else _lines(text, file, accepted))
    if not found:
        message = f"{path}: holds no records (accepted: {accepted})"
        raise LoadError(message)
    for record in found:
        if not isinstance(record.data, dict):
            record.refuse(f"a {type(record.data).__name__}, not an object")
    return found


def read_text(path: str | Path, accepted: str) -> str:
    """Return the text of the file at ``path``; raises ``LoadError`` that says what is ``accepted``."""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        message = f"no file {str(path)!r} (accepted: {accepted})"
        raise LoadError(message) from None
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: cannot be read as text: {error} (accepted: {accepted})"
        raise LoadError(message) from error


def _lines(text: str, file: Path, accepted: str) -> Iterator[FileRecord]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield FileRecord(_parsed(line, file, number, accepted), f"{file}, line {number}", accepted)


def _listed(text: str, file: Path, accepted: str) -> Iterator[FileRecord]:
    for number, data in enumerate(_parsed(text, file, 1, accepted), start=1):
        yield FileRecord(data, f"{file}, item {number}", accepted)


def _parsed(text: str, file: Path, line: int, accepted: str) -> Any:  # noqa: ANN401  (whatever JSON holds)
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        at, why = (line + error.lineno - 1, error.msg) if isinstance(error, json.JSONDecodeError) else (line, error)
        message = f"{file}, line {at}: no JSON: {why} (accepted: {accepted})"
        raise LoadError(message) from error


class HasKind(Protocol):
    """Something that has a ``kind``: an item, or a question that becomes one."""

    @property
    def kind(self) -> str:
        """Return the kind's name."""


K = TypeVar("K", bound=HasKind)


def chosen(found: Sequence[K], n: int | None, seed: int, kinds: Sequence[str] | None) -> list[tuple[K, Random]]:
    """Return ``n`` of the ``found`` (None: all) of ``kinds`` only, in the order that ``seed`` gives.

    Each comes with random numbers of its own, so that what is made with them does not depend on ``n``; the first of a
    longer list are the shorter list. Raises ``BadOption`` if there are not so many.
    """
    if n is not None and not is_whole(n, 1):
        message = f"n={n!r}: a whole number >= 1, or None for all"
        raise BadOption(message)
    order = Random(f"order {seed}").sample(range(len(found)), len(found))
    wanted = [index for index in order if kinds is None or found[index].kind in kinds]
    if len(wanted) < (n or 1):
        known = ", ".join(sorted({each.kind for each in found}))
        of = "" if kinds is None else f" of kinds {', '.join(kinds)} (there are: {known})"
        message = f"n={n}: the file holds {plural(len(wanted), 'question')}{of}"
        raise BadOption(message)
    return [(found[index], Random(f"item {seed} {index}")) for index in wanted[:n]]
