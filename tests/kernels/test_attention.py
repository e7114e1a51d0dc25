"""Attention over ranges of keys and over shared prefixes, against float64 softmax written out."""

import sys

import pytest
import torch
from nbkv_kernels import merge_states, row_attention, shared_prefix_attention
from nbkv_kernels.row_attention import splits

LIMIT = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def exact(q, k, v, upper, lower=None, scale=None, softcap=None, sinks=None):
    """Attention and log-sum-exp in float64, one row at a time."""
    q, k, v = q.double(), k.double(), v.double()
    batch, heads, n, width = q.shape
    groups = heads // k.shape[1]
    out = torch.zeros(batch, heads, n, v.shape[-1], dtype=torch.float64, device=q.device)
    lse = torch.full((batch, heads, n), float("-inf"), dtype=torch.float64, device=q.device)
    upper = upper.expand(batch, n)
    lower = torch.zeros_like(upper) if lower is None else lower.expand(batch, n)
    for b in range(batch):
        for h in range(heads):
            for r in range(n):
                seen = slice(max(0, int(lower[b, r])), max(0, int(upper[b, r])))
                scores = k[b, h // groups, seen] @ q[b, h, r] * (width**-0.5 if scale is None else scale)
                if softcap:
                    scores = torch.tanh(scores / softcap) * softcap
                extra = scores if sinks is None else torch.cat([scores, sinks[h : h + 1].double()])
                if not len(extra):
                    continue
                lse[b, h, r] = extra.logsumexp(0)
                out[b, h, r] = (scores - lse[b, h, r]).exp() @ v[b, h // groups, seen]
    return out, lse


def close(got, expected, dtype=torch.float32):
    out, lse = got
    assert out.dtype == dtype
    assert lse.dtype == torch.float32
    assert not out.isnan().any()
    assert not lse.isnan().any()
    assert (out.double() - expected[0]).abs().max() < LIMIT[dtype]
    finite = ~expected[1].isneginf()
    assert torch.equal(~lse.isneginf(), finite)
    assert (lse.double() - expected[1])[finite].abs().max() < LIMIT[dtype]


@pytest.mark.parametrize("length", [1, 63, 65, 127])
@pytest.mark.parametrize(("heads", "groups"), [(2, 1), (1, 4), (1, 8)])
def test_scattered_rows_see_up_to_their_own_position(fused, draw, scattered, length, heads, groups):
    n = min(length, 17)
    q, k, v = draw(1, heads * groups, n, 64), draw(1, heads, length, 64), draw(1, heads, length, 64)
    upper = scattered(n, length) + 1
    close(row_attention(q, k, v, upper, fused=fused), exact(q, k, v, upper))


@pytest.mark.parametrize("width", [64, 80, 96, 128, 256])
def test_head_dimensions(fused, draw, scattered, width):
    q, k, v = draw(1, 2, 5, width), draw(1, 2, 33, width), draw(1, 2, 33, width)
    upper = scattered(5, 33) + 1
    close(row_attention(q, k, v, upper, fused=fused), exact(q, k, v, upper))


def test_values_may_be_of_another_width(fused, draw, scattered):
    q, k, v = draw(1, 2, 5, 64), draw(1, 2, 33, 64), draw(1, 2, 33, 96)
    upper = scattered(5, 33) + 1
    close(row_attention(q, k, v, upper, fused=fused), exact(q, k, v, upper))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(fused, draw, scattered, dtype):
    q, k, v = (draw(1, 2, n, 64, dtype=dtype) for n in (5, 65, 65))
    upper = scattered(5, 65) + 1
    close(row_attention(q, k, v, upper, fused=fused), exact(q, k, v, upper), dtype)


@pytest.mark.parametrize("options", [{"softcap": 3.0}, {"scale": 0.3}, {"window": 9}, {"sinks": True}], ids=str)
def test_softcap_scale_window_and_sinks(fused, draw, scattered, options):
    q, k, v = draw(2, 4, 17, 64), draw(2, 2, 65, 64), draw(2, 2, 65, 64)
    upper = scattered(17, 65) + 1
    given = dict(options)
    if window := given.pop("window", None):
        given["lower"] = upper - window
    if given.get("sinks"):
        given["sinks"] = draw(4)
    close(row_attention(q, k, v, upper, fused=fused, **given), exact(q, k, v, upper, **given))


def test_rows_without_keys_give_zeros(fused, draw):
    q, k, v = draw(1, 2, 3, 64), draw(1, 2, 9, 64), draw(1, 2, 9, 64)
    upper = torch.tensor([0, 9, 4], device=q.device)
    lower = torch.tensor([0, 0, 4], device=q.device)
    out, lse = row_attention(q, k, v, upper, lower, fused=fused)
    assert not out[:, :, [0, 2]].any()
    assert lse[:, :, [0, 2]].isneginf().all()
    close((out, lse), exact(q, k, v, upper, lower))


def test_what_no_row_sees_may_be_anything(fused, draw):
    q, k, v = draw(1, 2, 3, 64), draw(1, 2, 40, 64), draw(1, 2, 40, 64)
    upper, lower = torch.tensor([12, 20, 17], device=q.device), torch.tensor([8, 9, 8], device=q.device)
    expected = exact(q, k, v, upper, lower)
    k[:, :, :7], v[:, :, :7], k[:, :, 33:], v[:, :, 33:] = (1e30,) * 4
    close(row_attention(q, k, v, upper, lower, fused=fused), expected)


def test_no_keys_and_no_rows(fused, draw):
    out, lse = row_attention(
        draw(1, 2, 3, 64), draw(1, 2, 0, 64), draw(1, 2, 0, 64), torch.zeros(3).long(), fused=fused
    )
    assert not out.any()
    assert lse.isneginf().all()
    none = row_attention(draw(1, 2, 0, 64), draw(1, 2, 5, 64), draw(1, 2, 5, 64), torch.zeros(0).long(), fused=fused)
    assert none[0].shape == (1, 2, 0, 64)


def test_long_keys_are_split_and_merged(fused, draw):
    length = 1500
    assert splits(2, length) == 2
    q, k, v = draw(1, 2, 3, 64), draw(1, 2, length, 64), draw(1, 2, length, 64)
    upper = torch.tensor([700, 1500, 751], device=q.device)
    close(row_attention(q, k, v, upper, fused=fused), exact(q, k, v, upper))


def test_the_reference_holds_no_large_mask(draw, monkeypatch):
    module = sys.modules["nbkv_kernels.row_attention"]  # its name is the function's in the package
    q, k, v = draw(1, 2, 31, 64), draw(1, 2, 64, 64), draw(1, 2, 64, 64)
    upper = torch.arange(31, device=q.device) + 20
    whole = row_attention(q, k, v, upper)
    monkeypatch.setattr(module, "_MASK", 64 * 7)
    parts = row_attention(q, k, v, upper)
    assert (whole[0] - parts[0]).abs().max() < 1e-6


def test_strided_views_of_larger_buffers(fused, draw):
    k, v = draw(1, 2, 100, 64)[:, :, 10:75], draw(1, 2, 100, 64)[:, :, 10:75]
    q = draw(1, 5, 4, 64).transpose(1, 2)
    upper = torch.arange(5, device=q.device) * 16 + 1
    close(row_attention(q, k, v, upper, fused=fused), exact(q, k, v, upper))


def test_shapes_that_do_not_fit_are_refused(draw):
    with pytest.raises(ValueError, match="multiple of H"):
        row_attention(draw(1, 3, 2, 64), draw(1, 2, 5, 64), draw(1, 2, 5, 64), torch.ones(2))
    with pytest.raises(ValueError, match="upper"):
        row_attention(draw(1, 2, 2, 64), draw(1, 2, 5, 64), draw(1, 2, 5, 64), torch.ones(3))


@pytest.mark.parametrize("length", [0, 1, 65])
@pytest.mark.parametrize("groups", [1, 4])
def test_branches_over_one_prefix_equal_each_over_its_own_copy(fused, draw, length, groups):
    batch, heads, n, own = 3, 2, 2, 5
    q = draw(batch, heads * groups, n, 64)
    prefix = draw(heads, length, 64), draw(heads, length, 64)
    mine = draw(batch, heads, own, 64), draw(batch, heads, own, 64)
    upper = torch.tensor([[1, 2], [4, 5], [0, 3]], device=q.device)
    k, v = (torch.cat([p.expand(batch, -1, -1, -1), o], dim=2) for p, o in zip(prefix, mine, strict=True))
    got = shared_prefix_attention(q, [prefix], mine, upper, fused=fused)
    close(got, exact(q, k, v, upper + length))


@pytest.mark.parametrize("options", [{}, {"softcap": 3.0}, {"sinks": True}, {"window": 70}, {"window": 9}], ids=str)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_prefix_in_pieces_with_softcap_sinks_and_windows(fused, draw, batch, options):
    heads, groups, n, own, given = 2, 2, 3, 7, dict(options)
    q = draw(batch, heads * groups, n, 64)
    pieces = [(draw(heads, length, 64), draw(heads, length, 64)) for length in (33, 0, 1, 40)]
    mine = draw(batch, heads, own, 64), draw(batch, heads, own, 64)
    k, v = (
        torch.cat([*(piece[side].expand(batch, -1, -1, -1) for piece in pieces), mine[side]], dim=2) for side in (0, 1)
    )
    upper = torch.tensor([5, 6, 7], device=q.device)
    lower = None
    if window := given.pop("window", None):
        lower = upper + 74 - window
    if given.get("sinks"):
        given["sinks"] = draw(heads * groups)
    got = shared_prefix_attention(q, pieces, mine, upper, lower, fused=fused, **given)
    close(got, exact(q, k, v, upper + 74, lower, **given))


def test_without_an_edge_every_row_sees_every_own_key(fused, draw):
    q, prefix, mine = draw(1, 4, 1, 64), (draw(2, 1100, 64),) * 2, (draw(1, 2, 5, 64),) * 2
    k, v = (torch.cat([p[None], o], dim=2) for p, o in zip(prefix, mine, strict=True))
    got = shared_prefix_attention(q, [prefix], mine, fused=fused)
    close(got, exact(q, k, v, torch.tensor([1105], device=q.device)))


def test_parts_in_half_precision_are_rounded_once(fused, draw):
    """Parts that are rounded before their merge err by about 1.3 times as much."""
    q, k, v = (draw(1, 2, n, 64, dtype=torch.bfloat16) for n in (16, 1300, 1300))
    expected, _ = exact(q, k, v, torch.full((16,), 1300, device=q.device))
    prefix, own = (k[0, :, :1200], v[0, :, :1200]), (k[:, :, 1200:], v[:, :, 1200:])
    got, _ = shared_prefix_attention(q, [prefix], own, fused=fused)
    assert got.dtype == torch.bfloat16
    rounding = (expected.to(torch.bfloat16).double() - expected).abs().mean()
    assert (got.double() - expected).abs().mean() < 1.1 * rounding


@pytest.mark.parametrize("mass", [0.0, 5.0, 12.0])
def test_merge_equals_one_softmax(fused, draw, mass):
    q, k, v = draw(1, 4, 3, 64), draw(1, 2, 60, 64), draw(1, 2, 60, 64)
    everything = torch.full((3,), 60, device=q.device)
    k[:, :, :56] += mass * q[:, ::2, :1] / q[:, ::2, :1].norm(dim=-1, keepdim=True)
    parts = [
        row_attention(q, k[:, :, cut], v[:, :, cut], everything) for cut in (slice(0, 56), slice(56, 60), slice(60, 60))
    ]
    outs, lses = (torch.stack(side) for side in zip(*parts, strict=True))
    close(merge_states(outs, lses, fused=fused), exact(q, k, v, everything))


def test_merge_of_nothing_is_nothing_and_never_reads_an_empty_part(fused, draw):
    outs, lses = draw(2, 5, 33), draw(2, 5)
    lses[0], outs[0] = float("-inf"), float("nan")
    lses[1, 2], outs[1, 2] = float("-inf"), float("nan")
    out, lse = merge_states(outs, lses, fused=fused)
    assert not out[2].any()
    assert lse[2].isneginf()
    rest = torch.tensor([0, 1, 3, 4], device=out.device)
    assert torch.equal(out[rest], outs[1, rest])
    assert (lse[rest] - lses[1, rest]).abs().max() < 1e-6
    with pytest.raises(ValueError, match="belong together"):
        merge_states(outs, lses[:1])
