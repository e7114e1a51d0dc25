"""Entries as files have them: layers go where they are wanted, digests are of two kinds, and older files are read."""

from __future__ import annotations

import json
import os
import random
from dataclasses import replace

import pytest
import torch
from entries import entry, ids_of
from path_kv import same, truth

from nbkv.kv import KV, allocate
from nbkv.stores.tiers import disk
from nbkv.stores.tiers.disk import DiskTier, OpenFile
from nbkv.stores.tiers.entry import Entry
from nbkv.stores.tiers.head import BLAKE3, XXH3, Damaged, Sealer, parse, render
from nbkv.stores.tiers.layer_digests import digest

KEY = Sealer(b"a key")


def room(heads, tokens, width, spare=0, dtype=torch.float32):
    """Return memory for a layer within a larger buffer, as a request's is, full of what was there before."""
    return tuple(allocate(heads, tokens + spare, width, dtype=dtype, device="cpu").fill_(7)[:, :tokens] for _ in "kv")


@pytest.fixture
def lying(tmp_path):
    """An entry that lies on disk, and its file."""

    def make(made):
        tier = DiskTier(root=tmp_path)
        tier.drop(made.header.key)
        assert tier.put(made)
        (path,) = tmp_path.rglob("*.safetensors")
        return tier.get(made.header.key), path

    return make


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spare", [0, 9])
@pytest.mark.parametrize("strip", [1, 64, 2**18])
def test_a_layer_is_received_where_it_is_wanted(lying, monkeypatch, dtype, spare, strip):
    monkeypatch.setattr(disk, "_STRIP", strip)
    kv = truth(ids_of(1), 0, 70)
    kv = KV(tuple(k.to(dtype) for k in kv.keys), tuple(v.to(dtype) for v in kv.values))
    found, _ = lying(entry(ids_of(1), kv=kv))
    monkeypatch.setattr(Entry, "_blob", lambda *_: pytest.fail("there was memory for it"))
    for layer in range(found.n_layers):
        into = room(2, 70, 3, spare, dtype)
        pair = found.layer(layer, into)
        assert all(side is place for side, place in zip(pair, into, strict=True))
        assert torch.equal(into[0], kv.keys[layer])
        assert torch.equal(into[1], kv.values[layer])


@pytest.mark.parametrize(
    "into",
    [
        room(2, 69, 3),
        room(1, 70, 3),
        room(2, 70, 3, dtype=torch.float16),
        tuple(side.transpose(1, 2) for side in room(2, 3, 70)),
    ],
    ids=["shorter", "fewer heads", "another dtype", "another layout"],
)
def test_memory_of_another_kind_is_left_alone(lying, into):
    found, _ = lying(entry(ids_of(1)))
    pair = found.layer(1, into)
    assert all((side == 7).all() for side in into)
    assert torch.equal(pair[0], truth(ids_of(1), 0, 70).keys[1])


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_a_layer_that_is_stored_in_another_form_is_made_of_it(lying, form):
    made = entry(ids_of(1), form=form)
    found, _ = lying(made)
    into = room(2, 70, 3)
    pair = found.layer(0, into)
    assert all((side == 7).all() for side in into)
    assert torch.equal(pair[0], made.layer(0)[0])


@pytest.mark.parametrize("how", ["flipped", "cut", "emptied", "swapped"])
@pytest.mark.parametrize("strip", [50, 2**18])
def test_what_is_received_is_checked_like_what_is_read(lying, monkeypatch, how, strip):
    monkeypatch.setattr(disk, "_STRIP", strip)
    draw = random.Random(strip)
    for _ in range(20):
        found, path = lying(entry(ids_of(1)))
        raw, head = bytearray(path.read_bytes()), found.head_nbytes
        size = found.header.sizes[0]
        if how == "flipped":
            raw[draw.randrange(head, head + size)] ^= 1 << draw.randrange(8)
        elif how == "swapped":
            raw[head:] = raw[head + size :] + raw[head : head + size]
        kept = {"cut": draw.randrange(head, head + size), "emptied": 0}.get(how, len(raw))
        path.write_bytes(raw[:kept])  # in place: the entry's file is open
        for into in (room(2, 70, 3, 5), None):
            with pytest.raises(Damaged, match="layer 0 has"):
                found.layer(0, into)


@pytest.mark.parametrize("most", [1, 7, 100, 10**6])
def test_a_system_that_reads_less_than_asked_for_is_asked_again(lying, monkeypatch, most):
    read = os.preadv

    def less(number, views, at):
        left, some = most, []
        for view in views:
            some.append(view[:left])
            left -= some[-1].nbytes
        return read(number, [view for view in some if view.nbytes], at)

    found, path = lying(entry(ids_of(1)))
    monkeypatch.setattr(os, "preadv", less)
    into = room(2, 70, 3, 5)
    found.layer(1, into)
    assert torch.equal(into[1], truth(ids_of(1), 0, 70).values[1])
    parts = [memoryview(bytearray(n)) for n in (3, 50, 9)]
    size = path.stat().st_size
    assert OpenFile(path).fill(parts, size - 40) == 40
    assert bytes(parts[0]) + bytes(parts[1])[:37] == path.read_bytes()[-40:]


# kinds of digests


def as_before(made):
    """Return the entry as it was written when every digest was BLAKE3's and there was one version."""
    blobs = [made.pieces(layer) for layer in range(made.n_layers)]
    header = replace(made.header, digests=tuple(digest(pieces, BLAKE3) for pieces in blobs), version=1)
    head = render(header, Sealer())
    return replace(made, header=header, head_nbytes=len(head), rendered=lambda: head)


@pytest.mark.parametrize("form", ["", "int8"])
def test_files_of_the_first_version_are_read(lying, form):
    before = as_before(entry(ids_of(1), 3, form=form))
    told = json.loads(json.loads(before.head[8:])["__metadata__"]["nbkv"])
    assert (told["version"], {len(each) for each in told["digests"]}) == (1, {32})
    found, path = lying(before)
    assert found.header == before.header
    assert same(found.kv(), before.kv())
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(Damaged, match="changed"):
        found.layer(1)


def test_with_a_key_nobody_can_find_bytes_for_a_digest():
    plain, sealed = entry(ids_of(1)), entry(ids_of(1), sealer=KEY)
    assert (plain.header.version, sealed.header.version) == (2, 1)
    assert all(each.startswith(XXH3) for each in plain.header.digests)
    assert not any(each.startswith(XXH3) for each in sealed.header.digests)
    assert parse(sealed.head, KEY).digests == tuple(sealed.header.digests)


@pytest.mark.parametrize(("sealer", "version"), [(KEY, 1), (KEY, 2), (Sealer(), 1)])
@pytest.mark.parametrize("which", [0, 1])
def test_a_digest_of_the_other_kind_is_not_accepted_where_it_is_too_weak(sealer, version, which):
    made = entry(ids_of(1))
    digests = [digest(made.pieces(layer), XXH3 if layer == which else BLAKE3) for layer in range(made.n_layers)]
    head = render(replace(made.header, digests=tuple(digests), version=version), sealer)
    with pytest.raises(Damaged, match="digests"):
        parse(head, sealer)


@pytest.mark.parametrize("version", [0, 3, "2", None, [2]])
def test_another_version_is_named(version):
    head = render(replace(entry(ids_of(1)).header, version=version), Sealer())
    with pytest.raises(Damaged, match=r"another version|cannot be read"):
        parse(head, Sealer())
