"""What tiers hold, for people: a list, a check of every byte, and a clearing up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tqdm import tqdm

from nbkv.stores.spec import check_spec, open_tier
from nbkv.stores.tiers.base import Tier
from nbkv.stores.tiers.entry import Damaged
from nbkv.stores.tiers.key import EntryKey

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["tier", "key", "tokens", "bytes", "uses", "pinned", "priority", "ttl_s", "model", "tenant", "form"]


def open_tiers(spec: str) -> list[Tier]:
    """Return the tiers that ``spec`` names below memory; raises ``BadOption`` and ``StoreUnavailable``."""
    return [open_tier(tier) for tier in check_spec(spec) if tier.kind != "memory"]


def listing(tiers: Iterable[Tier]) -> pd.DataFrame:
    """Return one row for each entry, the most recently used first; what cannot be read has no model."""
    from nbkv.show.frame import Frame  # noqa: PLC0415  (heavy, only for tables)

    rows = []
    for tier in tiers:
        for row in sorted(tier.rows(), key=lambda row: -row.used):
            try:
                entry = tier.get(row.key)
            except Damaged:
                entry = None
            space, form = (entry.header.space, entry.header.form) if entry else (None, "")
            about = ("", "") if space is None else (space.model, space.tenant)
            kept = row.uses, row.pinned, row.priority, row.ttl
            rows.append((tier.name, str(row.key), row.key.stop - row.key.start, row.nbytes, *kept, *about, form))
    return Frame(rows, columns=COLUMNS)


def damaged(tiers: Iterable[Tier]) -> list[tuple[str, EntryKey, str]]:
    """Read every byte; return tier, key and what is wrong for each entry that is damaged."""
    found = []
    for tier in tiers:
        for key in tqdm(tuple(tier.keys()), desc=tier.name, unit="entry", leave=False, disable=None):
            try:
                entry = tier.get(key)
                for layer in range(entry.n_layers if entry else 0):
                    entry.blob(layer)  # type: ignore[union-attr]  # there are layers
            except Damaged as error:
                found.append((tier.name, key, str(error)))
    return found


def collect(tiers: Iterable[Tier]) -> list[tuple[str, int, int]]:
    """Remove what has expired, is over its limit, damaged, or left by the killed; return counts and bytes by tier."""
    gone = []
    for tier in tiers:
        entries, nbytes = tier.collect()
        sizes = {row.key: row.nbytes for row in tier.rows()}
        for _, key, _ in damaged([tier]):
            entries, nbytes = entries + tier.drop(key), nbytes + sizes.get(key, 0)
        gone.append((tier.name, entries, nbytes))
    return gone
