"""Digests of layers: those of their bytes whoever takes them, and the entry is written while they are under way."""

from __future__ import annotations

import threading

import pytest
import torch
from blake3 import blake3
from entries import SPACE, ids_of
from path_kv import truth
from xxhash import xxh3_128

from nbkv.stores.tiers import layer_digests
from nbkv.stores.tiers.disk import DiskTier
from nbkv.stores.tiers.entry import make_entry
from nbkv.stores.tiers.forms import AsItIs
from nbkv.stores.tiers.head import BLAKE3, XXH3, EntryFacts, Sealer
from nbkv.stores.tiers.layer_digests import LARGE, LayerDigests, blank, digest, kind_of


def pieces(nbytes, n=2):
    return [memoryview(torch.randint(0, 256, (nbytes,), dtype=torch.uint8).numpy()) for _ in range(n)]


@pytest.mark.parametrize("kind", [BLAKE3, XXH3])
@pytest.mark.parametrize("nbytes", [1, 1000, LARGE // 4, LARGE])
def test_they_are_the_digests_of_the_bytes_however_cut(nbytes, kind):
    layers = [pieces(nbytes), pieces(nbytes, 3), pieces(nbytes, 1)]
    theirs = {BLAKE3: blake3, XXH3: xxh3_128}[kind]
    expected = [kind + theirs(b"".join(layer)).hexdigest()[:32] for layer in layers]
    taken = LayerDigests(layers, kind)
    assert list(taken) == list(taken[:]) == expected
    assert (len(taken), taken[-1]) == (3, expected[-1])
    assert [digest([b"".join(layer)], kind) for layer in layers] == expected
    assert {len(each) for each in expected} == {len(blank(kind))}
    assert {kind_of(each) for each in expected} == {kind}


def test_a_file_is_written_while_they_are_taken(tmp_path, monkeypatch):
    """A digest that waits for the last layer to be in the file: whoever needs digests first would wait for ever."""
    written, kv = threading.Event(), truth(ids_of(1), 0, 70)
    monkeypatch.setattr(layer_digests, "LARGE", 0)
    taken = lambda *given: digest(*given) if written.wait(600) else pytest.fail("nothing is written")  # noqa: E731
    monkeypatch.setattr(layer_digests, "digest", taken)
    entry = make_entry(SPACE, ids_of(1), 0, kv, form=AsItIs(), sealer=Sealer(), facts=EntryFacts())
    last, read = entry.n_layers - 1, type(entry).pieces

    def counted(self, layer):
        if layer == last:
            written.set()
        return read(self, layer)

    monkeypatch.setattr(type(entry), "pieces", counted)
    tier = DiskTier(root=tmp_path)
    assert tier.put(entry)
    found = tier.get(entry.header.key)
    assert found.head == entry.head
    assert found.nbytes == entry.nbytes == next(tmp_path.rglob("*.safetensors")).stat().st_size
    assert all(torch.equal(a, b) for a, b in zip(found.kv().keys, kv.keys, strict=True))
    tier.close()
