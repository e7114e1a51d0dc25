"""Writes chunks and prefixes of a session to a file, and takes such a file in where its golden rows agree."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from tqdm import tqdm

from nbkv import show
from nbkv.context import Context
from nbkv.errors import BadPrompt, LoadError, NbkvError, UnsupportedModel
from nbkv.families.prefix.base import adopt, encode
from nbkv.kv import KV, Space, join
from nbkv.models.adapter import ModelAdapter
from nbkv.result import Chunk
from nbkv.session.exports import archive
from nbkv.session.exports.golden import GoldenFinding, GoldenRows, check, golden_rows, placed
from nbkv.show.units import plural
from nbkv.stores.spec import sealer
from nbkv.stores.tiers.entry import Entry, make_entry
from nbkv.stores.tiers.forms import form_of
from nbkv.stores.tiers.head import Damaged, EntryFacts, Sealer

T = TypeVar("T")
_PROVENANCE = "exact"  # all KV in a store's exact space, chunks behind their sinks included


@dataclass(frozen=True)
class CacheFile:
    """What was written to a file or taken from one: sequences by name with their tokens, and ``nbytes`` of the file.

    ``findings`` are the golden checks of an import, by sequence. ``made`` says where the file comes from.
    """

    path: str
    nbytes: int
    sequences: tuple[tuple[str, int], ...]
    made: dict[str, str]
    findings: tuple[tuple[str, GoldenFinding], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Return the tokens of all sequences."""
        return sum(tokens for _, tokens in self.sequences)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        findings = [{"sequence": name, **asdict(each), "ok": each.ok} for name, each in self.findings]
        return {"kind": "cache_file"} | asdict(self) | {"findings": findings, "tokens": self.tokens}

    def __repr__(self) -> str:
        """Return what it holds, and the checks, as text."""
        return show.cache_file_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.cache_file_html(self.to_dict())


@dataclass(frozen=True, eq=False)
class _Arrival:
    """One sequence of a file, ready to be kept: its name, ids, and K/V as this model has them."""

    name: str
    ids: tuple[int, ...]
    kv: KV


def export(
    ctx: Context, path: str | Path, chunks: Sequence[Chunk], prefixes: Sequence[tuple[str, tuple[int, ...]]]
) -> CacheFile:
    """Write the KV of ``chunks`` and of ``prefixes`` (names and ids) to ``path``; what the store lacks is computed.

    Raises ``BadPrompt`` where there is nothing to write, ``UnsupportedModel`` for a model whose KV cannot be continued
    token by token, ``LoadError`` where the file cannot be written.
    """
    _able(ctx.adapter)
    named = [(f"chunk {chunk.name!r}", path) for chunk in chunks for path in _paths(chunk, ctx)] + list(prefixes)
    if not named:
        message = "nothing to export: name chunks of this session, or a prefix (text, parts, messages, or a Result)"
        raise BadPrompt(message)
    space, seals = replace(ctx.space(), tenant=""), sealer()  # whose it was is nobody's business
    entries: dict[str, Entry] = {}
    golden: dict[str, torch.Tensor] = {}
    for _, ids in _shown(list(dict.fromkeys(named)), "export"):
        entry, rows = _entry(ids, space, seals, ctx)
        name = str(entry.header.key)
        entries[name] = entry
        golden |= {f"{name}.logits": rows.logits, f"{name}.rows": torch.tensor(rows.positions, dtype=torch.int64)}
    by_ids = {entry.header.ids: name for name, entry in entries.items()}
    whole = ctx.adapter.capabilities.whole
    made = _made(ctx)
    manifest = {
        "made": made,
        "provenance": _PROVENANCE,
        "sequences": [[name, by_ids[ids[: whole(len(ids))]]] for name, ids in named],
        "chunks": [asdict(replace(chunk, notes=())) for chunk in chunks],
    }
    at = Path(path).expanduser()
    nbytes = archive.write(at, manifest, golden, list(entries.values()), seals)
    return CacheFile(str(at), nbytes, tuple((name, len(ids)) for name, ids in named), made)


def import_(ctx: Context, path: str | Path) -> tuple[CacheFile, tuple[Chunk, ...]]:
    """Take the KV in the file at ``path`` into ``ctx``'s store, all of it or nothing; return its chunks too.

    Raises ``LoadError`` for a file that is damaged, sealed with another key, or no export, and ``UnsupportedModel``,
    with the check that failed, where this model would compute other KV.
    """
    _able(ctx.adapter)
    at = Path(path).expanduser()
    found = archive.read(at, sealer())
    try:
        made, listed = dict(found.manifest["made"]), list(found.manifest["sequences"])
        if found.manifest["provenance"] != _PROVENANCE:
            _damaged("its KV are not canonical")
        chunks = tuple(_chunk(told, ctx, at) for told in found.manifest["chunks"])
        by_key = {str(key): entry for key, entry in found.entries.items()}
        arrivals = {key: _arrival(str(name), by_key[key], made, ctx, at) for name, key in listed}
        golden = {key: _golden(key, found.golden) for key in arrivals}
    except NbkvError:
        raise
    except (Damaged, KeyError, TypeError, ValueError, AttributeError) as error:
        why = str(error) if isinstance(error, Damaged) else "its manifest contradicts its entries"
        message = f"{at}: {why}; nothing of it was imported"
        raise LoadError(message) from error
    findings = []
    for key, one in _shown(list(arrivals.items()), "import"):
        looked = check(ctx.adapter, one.ids, one.kv, golden[key])
        findings += [(one.name, each) for each in looked]
        if failed := next((each for each in looked if not each.ok), None):
            _differs(at, one.name, failed, made, ctx)
    for one in arrivals.values():
        adopt(one.ids, one.kv, ctx)
    notes = () if made["fingerprint"] == ctx.model else (_elsewhere(made, ctx),)
    sequences = tuple((str(name), len(arrivals[key].ids)) for name, key in listed)
    return CacheFile(str(at), at.stat().st_size, sequences, made, tuple(findings), notes), chunks


def _shown(work: Sequence[T], what: str) -> Iterable[T]:
    """Yield the parts of ``work``, in a terminal with a bar of how far it is."""
    return tqdm(work, desc=what, unit="sequence", leave=False, disable=None)


def _paths(chunk: Chunk, ctx: Context) -> list[tuple[int, ...]]:
    """Return what is encoded of a chunk: behind its sink and, where the store has that, as a first part behind BOS."""
    paths, front = [(*chunk.sink, *chunk.token_ids)], tuple(ctx.codec.bos_ids)
    first = (*front, *chunk.token_ids)
    if (
        front
        and first != paths[0]
        and ctx.store.holds(ctx.space(), first) == ctx.adapter.capabilities.whole(len(first))
    ):
        paths.append(first)
    return paths


def _entry(ids: tuple[int, ...], space: Space, sealer: Sealer, ctx: Context) -> tuple[Entry, GoldenRows]:
    ctx.fits(len(ids))
    encode(ids, ctx)
    ids = ids[: ctx.adapter.capabilities.whole(len(ids))]
    with ctx.store.reading(ctx.space(), ids) as found:
        kv = join([kv for _, kv in found])
    if kv.length != len(ids):
        message = f"the store kept {kv.length} of {plural(len(ids), 'token')}: give it a larger limit to export them"
        raise LoadError(message)
    facts = EntryFacts(provenance=_PROVENANCE)
    entry = make_entry(space, ids, 0, kv, form=form_of(""), sealer=sealer, facts=facts)
    return entry, golden_rows(ctx.adapter, ids, kv)


def _chunk(told: dict[str, Any], ctx: Context, path: Path) -> Chunk:
    """Return a chunk of the file as this session's, whose tokenizer must make the same ids of its text."""
    given = {name: told[name] for name in ("name", "text", "lineage")}
    ids, sink = tuple(map(int, told["token_ids"])), tuple(map(int, told["sink"]))
    if tuple(ctx.codec.part(given["text"], first=False)) != ids:
        message = (
            f"{path}: chunk {given['name']!r}: this tokenizer makes other tokens of its text; nothing was imported"
        )
        raise UnsupportedModel(message)
    return Chunk(token_ids=ids, sink=sink, model=ctx.model, **given)


def _arrival(name: str, entry: Entry, made: dict[str, str], ctx: Context, path: Path) -> _Arrival:
    known, ids = ctx.adapter.capabilities, entry.header.ids
    vocabulary = int(ctx.adapter.config.vocab_size)
    if entry.n_layers != len(known.kv_heads) or not ids or max(ids) >= vocabulary or min(ids) < 0:
        _differs(path, name, None, made, ctx)
    if entry.header.start or known.whole(len(ids)) != len(ids):
        _damaged("it begins or ends within a sequence")
    ctx.fits(len(ids))
    kv = entry.kv()
    for layer, (keys, values) in enumerate(zip(kv.keys, kv.values, strict=True)):
        widths = (known.key_dim[layer], known.value_dim[layer])
        want = [(known.kv_heads[layer], len(ids), width) for width in widths]
        if [tuple(keys.shape), tuple(values.shape)] != want:
            _differs(path, name, None, made, ctx)
    return _Arrival(name, ids, placed(kv, ctx.adapter))


def _golden(key: str, tensors: dict[str, torch.Tensor]) -> GoldenRows:
    return GoldenRows(tuple(tensors[f"{key}.rows"].tolist()), tensors[f"{key}.logits"])


def _differs(path: Path, name: str, failed: GoldenFinding | None, made: dict[str, str], ctx: Context) -> NoReturn:
    what = (
        "its layers, heads or vocabulary are not those of this model"
        if failed is None
        else f"{failed.name} off by {failed.error:.2g}, at most {failed.bound:.2g} is this model's own noise"
    )
    origin = f"made by {made.get('model')} in {made.get('dtype')}, transformers {made.get('transformers')}"
    here = f"this is {ctx.adapter.name} in {_dtype(ctx.adapter)}"
    message = f"{path}: {name}: {what} ({origin}; {here}); nothing of it was imported"
    raise UnsupportedModel(message)


def _damaged(why: str) -> NoReturn:
    raise Damaged(why)


def _elsewhere(made: dict[str, str], ctx: Context) -> str:
    here = _made(ctx)
    parts = [f"{what} {made.get(what)} there, {here[what]} here" for what in here if made.get(what) != here[what]]
    return f"made elsewhere, and its golden rows agree: {'; '.join(parts)}"


def _made(ctx: Context) -> dict[str, str]:
    from nbkv import __version__  # noqa: PLC0415  (the package looks its own names up when asked)

    return {
        "model": ctx.adapter.name,
        "fingerprint": ctx.model,
        "dtype": _dtype(ctx.adapter),
        "device": ctx.adapter.device.type,
        "machine": platform.machine(),
        "nbkv": __version__,
        "torch": torch.__version__,
        "transformers": version("transformers"),
    }


def _dtype(adapter: ModelAdapter) -> str:
    return str(adapter.dtype).removeprefix("torch.")


def _able(adapter: ModelAdapter) -> None:
    """Raise ``UnsupportedModel`` unless this model's KV are all that a sequence needs to be gone on with."""
    known = adapter.capabilities
    if not known.prefix or not known.per_token:
        why = known.why_not("prefix") if not known.prefix else known.why_not("per_token")
        message = f"{adapter.name} has nothing that a cache file could carry: {why}"
        raise UnsupportedModel(message)
