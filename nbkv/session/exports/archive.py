"""The file of an export: a zip archive, nothing in it compressed, of a sealed manifest, golden rows, and entries.

Its entries are the very safetensors files that stores keep (``nbkv.stores.tiers.entry``). Nothing is ever unpacked to
disk, and no member is read whose name is not one of those that an export has.
"""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors

from nbkv.errors import LoadError
from nbkv.stores.tiers.entry import Entry, lying_entry
from nbkv.stores.tiers.head import BLAKE3, Damaged, Sealer, head_size, parse
from nbkv.stores.tiers.key import EntryKey
from nbkv.stores.tiers.layer_digests import digest

_MANIFEST, _SEAL, _GOLDEN, _ENTRIES, _SUFFIX = "manifest.json", "seal", "golden.safetensors", "entries/", ".safetensors"
_VERSION = 1
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same export is the same file, whenever it is made
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    MemoryError,
    SafetensorError,
)  # fmt: skip  (what zipfile and json raise over bytes that are none of theirs)


@dataclass(frozen=True, eq=False)
class Archive:
    """What an export holds: its ``manifest`` as plain data, golden rows as tensors by name, and entries by key."""

    manifest: dict[str, Any]
    golden: dict[str, torch.Tensor]
    entries: dict[EntryKey, Entry]


def write(
    path: Path,
    manifest: Mapping[str, Any],
    golden: Mapping[str, torch.Tensor],
    entries: Sequence[Entry],
    sealer: Sealer,
) -> int:
    """Write an export to ``path``, whole or not at all; return its bytes. Raises ``LoadError`` where it cannot be."""
    rows = write_tensors({name: tensor.contiguous() for name, tensor in golden.items()})
    text = json.dumps(
        {
            "version": _VERSION,
            **manifest,
            "golden": digest([rows], BLAKE3),
            "entries": [str(each.header.key) for each in entries],
        },
        sort_keys=True,
    )
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as file:
            for name, data in ((_MANIFEST, text.encode()), (_SEAL, sealer.seal(text).encode()), (_GOLDEN, rows)):
                file.writestr(zipfile.ZipInfo(name, _EPOCH), data)
            for entry in entries:
                whole = b"".join([entry.head, *(entry.blob(layer) for layer in range(entry.n_layers))])
                file.writestr(zipfile.ZipInfo(f"{_ENTRIES}{entry.header.key}{_SUFFIX}", _EPOCH), whole)
        size = draft.stat().st_size
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        message = f"{path}: cannot be written: {error.strerror or error}"
        raise LoadError(message) from error
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return size


def read(path: Path, sealer: Sealer) -> Archive:
    """Return the export at ``path``; raises ``LoadError`` that says what is wrong with it."""
    try:
        with zipfile.ZipFile(path) as file:
            return _read(file, path, sealer)
    except FileNotFoundError:
        message = f"no file {str(path)!r} (accepted: what session.export wrote)"
        raise LoadError(message) from None
    except Damaged as error:
        _refuse(path, str(error), error)
    except LoadError:
        raise
    except OSError as error:
        _refuse(path, f"it cannot be read: {error.strerror or error}", error)
    except _BROKEN as error:
        _refuse(path, f"it is no export, or not whole ({type(error).__name__})", error)


def _read(file: zipfile.ZipFile, path: Path, sealer: Sealer) -> Archive:
    members = file.infolist()
    for member in members:
        _check_member(member, path)
    if len({member.filename for member in members}) < len(members):
        _refuse(path, "it has two members of one name")
    text = file.read(_MANIFEST).decode()
    sealer.check(text, file.read(_SEAL).decode())
    manifest = json.loads(text)
    if manifest["version"] != _VERSION:
        _refuse(path, f"it is of format {manifest['version']!r}; this version reads {_VERSION}")
    rows = file.read(_GOLDEN)
    if digest([rows], BLAKE3) != manifest["golden"]:
        _refuse(path, "its golden rows have changed since it was made")
    keys = [key for name in manifest["entries"] if (key := EntryKey.read(name)) is not None]
    entries = {key: _entry(file.read(f"{_ENTRIES}{key}{_SUFFIX}"), key, sealer) for key in keys}
    if len(entries) != len(members) - 3 or len(entries) != len(manifest["entries"]):
        _refuse(path, "its entries are not those it names")
    return Archive(manifest, read_tensors(rows), entries)


def _check_member(member: zipfile.ZipInfo, path: Path) -> None:
    """Refuse a member whose name leads anywhere, or is none of an export's, or which is packed."""
    name = member.orig_filename
    inner = name.removeprefix(_ENTRIES).removesuffix(_SUFFIX)
    known = name in {_MANIFEST, _SEAL, _GOLDEN} or (
        name == f"{_ENTRIES}{inner}{_SUFFIX}" and EntryKey.read(inner) is not None
    )
    if not known or name != member.filename:
        _refuse(path, f"it has a member {name!r:.80}, which no export has")
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        _refuse(path, f"its member {name!r} is compressed")


def _entry(data: bytes, key: EntryKey, sealer: Sealer) -> Entry:
    """Return the entry that ``data`` is; its head is checked now, its layers as they are read."""
    head = data[: head_size(data[:8])]
    header = parse(head, sealer, key)
    if len(data) != len(head) + sum(header.sizes):
        message = f"entry {key} has {len(data)} bytes of {len(head) + sum(header.sizes)}"
        raise Damaged(message)
    begins = [len(head) + offset for offset in header.offsets]
    view = memoryview(data)
    return lying_entry(header, head, lambda layer: [view[begins[layer] : begins[layer] + header.sizes[layer]]])


def _refuse(path: Path, why: str, cause: BaseException | None = None) -> NoReturn:
    message = f"{path}: {why}; nothing of it was imported"
    raise LoadError(message) from cause
