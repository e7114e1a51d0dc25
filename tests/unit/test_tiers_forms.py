from __future__ import annotations

import pytest
import torch
from entries import SPACE, entry
from path_kv import same

from nbkv.errors import BadOption
from nbkv.kv import KV
from nbkv.stores.tiers.disk import DiskTier
from nbkv.stores.tiers.forms import error, form_of

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def layers(dtype, tokens=33):
    torch.manual_seed(0)
    keys = torch.randn(2, tokens, 16) * torch.logspace(-2, 2, 16)  # channels of very different size, as keys have them
    values = torch.randn(2, tokens, 16) * torch.logspace(-2, 2, tokens)[:, None]
    return KV((keys.to(dtype), torch.empty(0, tokens, 0)), (values.to(dtype), torch.empty(0, tokens, 0)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["", "int8", "fp8"])
def test_every_form_comes_back_bit_for_bit_as_it_was_stored(tmp_path, dtype, form):
    kv, ids = layers(dtype), tuple(range(33))
    made = entry(ids, kv=kv, form=form)
    DiskTier(root=tmp_path).put(made)
    found = DiskTier(root=tmp_path).get(made.header.key).kv()
    assert same(found, made.kv())
    assert [each.dtype for each in (found.keys[0], found.values[0])] == [dtype, dtype]
    assert same(found, kv) == (form == "")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("form", "most"), [("int8", 0.012), ("fp8", 0.04)])
def test_lossy_forms_halve_the_bytes_and_say_how_far_off_they_are(dtype, form, most):
    kv = layers(dtype)
    assert 0 < error(form_of(form), kv.keys[0], kv.values[0]) < most
    assert error(form_of(""), kv.keys[0], kv.values[0]) == 0
    packed = sum(entry(tuple(range(33)), kv=kv, form=form).header.sizes)
    assert packed < kv.nbytes * (0.33 if dtype is torch.float32 else 0.66)


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_zeros_stay_zeros(form):
    zeros = torch.zeros(1, 4, 3)
    assert all((side == 0).all() for side in form_of(form).unpack(form_of(form).pack(zeros, zeros)))


def test_scales_by_channel_keep_keys_better_than_by_token():
    kv = layers(torch.float32)
    form = form_of("int8")
    small = kv.keys[0][..., 0]
    back = form.unpack(form.pack(kv.keys[0], kv.values[0]))[0][..., 0]
    assert (back - small).norm() / small.norm() < 0.02


@pytest.mark.parametrize("name", ["int3", "fp16", "zip"])
def test_unknown_forms_say_what_is_accepted(name):
    with pytest.raises(BadOption, match="accepted: int8, fp8"):
        form_of(name)


def test_the_key_of_an_entry_has_its_form():
    keys = {entry(tuple(range(33)), kv=layers(torch.float32), form=form).header.key for form in ("", "int8", "fp8")}
    assert len(keys) == 3
    assert SPACE.lineage == "exact"
