"""Attention over parts of the keys, and their merge, against one softmax in float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from nbkv.ops import merge_states, partial_attention

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


def draw(rows, keys, *, heads=2, groups=2, dim=64, value=None, batch=1, dtype=torch.float32, device="cpu", seed=0):
    maker = torch.Generator().manual_seed(seed)
    shapes = [(batch, heads * groups, rows, dim), (batch, heads, keys, dim), (batch, heads, keys, value or dim)]
    return [torch.randn(shape, generator=maker).to(device, dtype) for shape in shapes]


def reference(q, k, v, *, scale, mask=None, softcap=None, sinks=None):
    """One softmax over all keys, heads repeated, in float64."""
    q, k, v = (each.double().cpu() for each in (q, k, v))
    k, v = (each.repeat_interleave(q.shape[1] // k.shape[1], 1) for each in (k, v))
    scores = q @ k.mT * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        mask = mask.cpu()
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.double()
    if sinks is not None:
        column = sinks.double().cpu()[None, :, None, None].expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], -1)
        v = torch.cat([v, torch.zeros_like(v[:, :, :1])], -2)
    return scores.softmax(-1).nan_to_num() @ v, scores.logsumexp(-1)


def error(got, wanted):
    """The largest error of the output, and of lse relative to its size."""
    sizes = (1.0, *(each.abs().clamp(min=1.0) for each in wanted[1:]))
    away = [abs(a.double().cpu() - b) / size for a, b, size in zip(got, wanted, sizes, strict=True)]
    return max(float(each.max()) for each in away)


@pytest.mark.parametrize("keys", [1, 63, 65, 127])
@pytest.mark.parametrize(("heads", "groups"), [(2, 1), (2, 4), (1, 8)])
def test_one_part_is_attention(keys, heads, groups, device):
    q, k, v = draw(5, keys, heads=heads, groups=groups, device=device)
    got = partial_attention(q, k, v, scale=0.125)

    assert error(got, reference(q, k, v, scale=0.125)) < 1e-6
    assert got[0].dtype == q.dtype
    assert got[1].dtype == torch.float32


@pytest.mark.parametrize("dim", [64, 72, 80, 96, 128, 192, 256])
def test_head_sizes(dim, device):
    q, k, v = draw(4, 65, dim=dim, device=device)

    assert error(partial_attention(q, k, v, scale=dim**-0.5), reference(q, k, v, scale=dim**-0.5)) < 1e-6


@pytest.mark.parametrize("options", ["softcap", "sinks", "values", "bool", "float", "heads", "all"])
def test_what_families_do_besides(options, device):
    every = options == "all"
    q, k, v = draw(4, 65, value=48 if options in {"values", "all"} else None, batch=2, device=device)
    maker = torch.Generator().manual_seed(1)
    given = {"scale": 0.125}
    if options == "softcap" or every:
        given["softcap"] = 5.0
    if options == "sinks" or every:
        given["sinks"] = torch.randn(4, generator=maker).to(device)
    if options in {"bool", "float", "heads", "all"}:
        mask = torch.rand(2, 4 if options == "heads" else 1, 4, 65, generator=maker) > 0.4
        given["mask"] = (mask.float() * 3 if options == "float" else mask).to(device)

    assert error(partial_attention(q, k, v, **given), reference(q, k, v, **given)) < 1e-6


@pytest.mark.parametrize("cuts", [(0, 65), (1, 64), (63, 65), (0, 0), (65, 65), (30, 30)])
def test_parts_merge_to_the_whole(cuts, device):
    q, k, v = draw(5, 65, batch=2, device=device)
    bounds = [0, *cuts, 65]
    spans = [slice(*pair) for pair in pairwise(bounds)]
    parts = [partial_attention(q, k[:, :, span], v[:, :, span], scale=0.125) for span in spans]

    assert error(merge_states(parts), reference(q, k, v, scale=0.125)) < 1e-6


@pytest.mark.parametrize("away", [-7.5, 7.5])
def test_one_part_may_have_nearly_all_the_mass(away, device):
    q, k, v = draw(4, 127, device=device)
    lift = torch.zeros(127, device=device)
    lift[:100] = away
    far, near = slice(0, 100), slice(100, None)
    parts = [partial_attention(q, k[:, :, at], v[:, :, at], scale=0.125, mask=lift[at]) for at in (far, near)]
    wanted = reference(q, k, v, scale=0.125, mask=lift)
    share = torch.exp(parts[0][1].double().cpu() - wanted[1])

    assert float(share.min()) > 0.999 if away > 0 else float(share.max()) < 0.01
    assert error(merge_states(parts), wanted) < 1e-6


@pytest.mark.parametrize("away", [60.0, 1000.0])
def test_the_other_part_may_weigh_nothing(away, device):
    q, k, v = draw(4, 30, device=device)
    heavy, light = (partial_attention(q, k[:, :, at], v[:, :, at], scale=0.125) for at in (slice(20), slice(20, None)))
    for parts in ([(heavy[0], heavy[1] + away), light], [light, (heavy[0], heavy[1] + away)]):
        out, lse = merge_states(parts)

        assert float((out - heavy[0]).abs().max()) < 1e-6
        assert torch.equal(lse, heavy[1] + away)


def test_empty_parts_are_nothing(device):
    q, k, v = draw(3, 8, device=device)
    none = partial_attention(q, k[:, :, :0], v[:, :, :0], scale=1.0)
    some = partial_attention(q, k, v, scale=1.0)

    assert not none[0].any()
    assert torch.isneginf(none[1]).all()
    for parts in ([none, some], [some, none], [none, some, none]):
        merged = merge_states(parts)
        assert torch.equal(merged[0], some[0])
        assert torch.equal(merged[1], some[1])
    out, lse = merge_states([none, none])
    assert not out.any()
    assert torch.isneginf(lse).all()


def test_rows_that_see_nothing(device):
    q, k, v = draw(3, 9, device=device)
    mask = torch.ones(1, 1, 3, 9, dtype=torch.bool, device=device)
    mask[0, 0, 1] = False
    for cap in (None, 30.0):
        out, lse = partial_attention(q, k, v, scale=1.0, mask=mask, softcap=cap)

        assert not out[:, :, 1].any()
        assert torch.isneginf(lse[:, :, 1]).all()
        assert torch.isfinite(out).all()


def test_sinks_count_once(device):
    q, k, v = draw(4, 30, device=device)
    sinks = torch.tensor([3.0, -2.0, 0.5, 9.0], device=device)
    parts = [
        partial_attention(q, k[:, :, :20], v[:, :, :20], scale=0.3),
        partial_attention(q, k[:, :, 20:], v[:, :, 20:], scale=0.3, sinks=sinks),
    ]

    assert error(merge_states(parts), reference(q, k, v, scale=0.3, sinks=sinks)) < 2e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_its_own_error(dtype, device):
    q, k, v = draw(5, 127, dtype=dtype, device=device)
    whole = error(partial_attention(q, k, v, scale=0.125)[:1], reference(q, k, v, scale=0.125)[:1])
    spans = (slice(0, 100), slice(100, None))
    parts = [partial_attention(q, k[:, :, at], v[:, :, at], scale=0.125) for at in spans]
    merged = merge_states(parts)

    assert merged[0].dtype == torch.float32
    assert error(merged, reference(q, k, v, scale=0.125)) <= max(2 * whole, torch.finfo(dtype).eps)


def test_float64_stays_float64():
    q, k, v = draw(4, 33, dtype=torch.float64)
    spans = (slice(0, 20), slice(20, None))
    parts = [partial_attention(q, k[:, :, at], v[:, :, at], scale=0.125) for at in spans]

    assert error(merge_states(parts), reference(q, k, v, scale=0.125)) < 1e-12


def test_views_into_a_longer_buffer(device):
    q, k, v = draw(4, 128, device=device)
    got = partial_attention(q, k[:, :, 3:70], v[:, :, 3:70], scale=0.125)

    assert error(got, reference(q, k[:, :, 3:70], v[:, :, 3:70], scale=0.125)) < 1e-6
