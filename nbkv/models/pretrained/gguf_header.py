"""The header of a GGUF file: what its weights are quantised to, read without reading them.

The layout is that of the GGUF specification (ggml-org/ggml, docs/gguf.md), versions 2 and 3, little-endian. The package
gguf reads it too, but takes seconds for a vocabulary that nobody asks for here.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nbkv.errors import LoadError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_LONGEST = 1 << 30  # no string of a sound file is longer

Value = int | float | bool | str | None


@dataclass(frozen=True)
class GgufHeader:
    """Key-value pairs (arrays are None) and how many weights are of each ggml type."""

    entries: dict[str, Value]
    types: Counter[int]

    @property
    def type_ids(self) -> list[int]:
        """Return the ids of ggml types that weights have, the most frequent first."""
        return [type_id for type_id, _ in self.types.most_common()]


def read_header(path: Path) -> GgufHeader:
    """Return the header of the file at ``path``; raises ``LoadError``."""
    try:
        with path.open("rb") as file:
            return _header(file)
    except (OSError, struct.error, UnicodeDecodeError, KeyError, ValueError, OverflowError) as error:
        message = f"{str(path)!r} is no GGUF file that can be read: {error} (accepted: GGUF version 2 or 3)"
        raise LoadError(message) from error


def _header(file: BinaryIO) -> GgufHeader:
    if file.read(4) != _MAGIC:
        message = "it does not begin with GGUF"
        raise ValueError(message)
    version = _number(file, "I")
    if version not in _VERSIONS:
        message = f"its version is {version}"
        raise ValueError(message)
    tensors, pairs = int(_number(file, "Q")), int(_number(file, "Q"))
    entries: dict[str, Value] = {}
    for _ in range(pairs):
        key = _string(file)
        entries[key] = _value(file, int(_number(file, "I")))
    types: Counter[int] = Counter()
    for _ in range(tensors):
        _string(file)
        size = 1
        for _ in range(int(_number(file, "I"))):
            size *= int(_number(file, "Q"))
        types[int(_number(file, "I"))] += size
        _number(file, "Q")
    return GgufHeader(entries, types)


def _value(file: BinaryIO, kind: int) -> Value:
    if kind == _STRING:
        return _string(file)
    if kind != _ARRAY:
        return _number(file, _NUMBERS[kind])
    inner, length = int(_number(file, "I")), int(_number(file, "Q"))
    if inner in _NUMBERS:
        file.seek(length * struct.calcsize(_NUMBERS[inner]), 1)
        return None
    skip: Callable[[BinaryIO], object] = _string if inner == _STRING else lambda nested: _value(nested, _ARRAY)
    for _ in range(length):
        skip(file)
    return None


def _number(file: BinaryIO, form: str) -> int | float | bool:
    (number,) = struct.unpack(f"<{form}", file.read(struct.calcsize(form)))
    return number  # type: ignore[no-any-return]


def _string(file: BinaryIO) -> str:
    length = int(_number(file, "Q"))
    if length > _LONGEST or len(text := file.read(length)) < length:
        message = "it ends within its header"
        raise ValueError(message)
    return text.decode()
