"""K/V that tell of which tokens they are, and the check that a store holds them, for the tests of stores."""

from __future__ import annotations

import torch

from nbkv.kv import KV


def truth(ids, start, stop):
    """Return K/V of ``[start, stop)`` that depend on every token before, as real K/V do."""
    sums = torch.tensor([hash(tuple(ids[: i + 1])) % 1000 for i in range(start, stop)], dtype=torch.float32)
    layer = sums[None, :, None].expand(2, -1, 3)
    return KV((layer, layer + 0.25), (layer + 0.5, layer + 0.75))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip((*a.keys, *a.values), (*b.keys, *b.values), strict=True))


def path_ids(node):
    return [i for above in node.path for i in above.ids]


def nodes_are_true(store):
    """Check K/V of every node, and of the path to each node that lives in a buffer."""
    for tree in store._trees.values():
        for node in tree.nodes():
            ids, storage = path_ids(node), node.payload
            assert node in storage.nodes
            assert same(storage.read(node.start, node.stop), truth(ids, node.start, node.stop))
            if storage.in_buffer:
                assert node.start >= storage.base
                assert same(storage.read(storage.base, node.stop), truth(ids, storage.base, node.stop))
