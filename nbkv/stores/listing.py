"""What is in a store, as a table: one row for each stored sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nbkv.kv import KV, Space
from nbkv.stores.base import Home, PathBuffer
from nbkv.stores.radix import Node, RadixTree
from nbkv.stores.state_checkpoints import StateCheckpoints

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ["tokens", "own_tokens", "bytes", "state_bytes", "in_line", "lineage", "tenant", "used"]


def sequences(trees: Mapping[Space, RadixTree[Home]], checkpoints: StateCheckpoints) -> pd.DataFrame:
    """Return one row for each leaf of ``trees``, the most recently used first.

    ``bytes`` are those of its own tokens' K/V, ``state_bytes`` those of all checkpoints from its first token on.
    """
    import pandas as pd  # noqa: PLC0415  (heavy, only for tables)

    rows = [
        (
            node.stop,
            len(node.ids),
            own_bytes(node),
            sum(checkpoints.bytes_of(above) for above in node.path),
            isinstance(node.payload, PathBuffer),
            space.lineage,
            space.tenant,
            node.used,
        )
        for space, tree in trees.items()
        for node in tree.nodes()
        if not node.children
    ]
    return pd.DataFrame(rows, columns=_COLUMNS).sort_values("used", ascending=False, ignore_index=True)


def own_bytes(node: Node[Home]) -> int:
    """Return the bytes of the K/V of ``node``'s own tokens."""
    home = node.payload
    if home is None:
        return 0
    return home.nbytes if isinstance(home, KV) else home.buffer.read(node.start, node.stop).nbytes
