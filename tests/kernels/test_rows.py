"""Kernels that move or make rows of K/V: every named element is written, nothing else is touched."""

import pytest
import torch
from nbkv_kernels import Projection, kv_deviation, project_kv, rotate_gather

LENGTHS = [1, 63, 65, 127]


def poisoned(*shape, dtype=torch.float32, device="cpu"):
    return torch.full(shape, float("nan"), dtype=dtype, device=device)


def only(target, rows):
    """The named rows, all written; and the others are as they were (NaN)."""
    others = torch.ones(target.shape[1], dtype=torch.bool, device=target.device)
    others[rows] = False
    assert target[:, others].isnan().all()
    written = target[:, rows]
    assert not written.isnan().any()
    return written


def rotation(keys, angle, start, neighbours):
    """Turn each pair of dimensions by its angle, as complex numbers in float64."""
    keys, half = keys.double().clone(), angle.shape[-1]
    inner = keys[..., start : start + 2 * half]
    first, second = (inner[..., 0::2], inner[..., 1::2]) if neighbours else inner.chunk(2, dim=-1)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)
    parts = (turned.real, turned.imag)
    keys[..., start : start + 2 * half] = torch.stack(parts, -1).flatten(-2) if neighbours else torch.cat(parts, -1)
    return keys


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("neighbours", [False, True], ids=["halves", "neighbours"])
@pytest.mark.parametrize(("width", "start", "half"), [(64, 0, 32), (96, 16, 24), (128, 0, 16)])
def test_keys_are_turned_into_place(fused, draw, scattered, length, neighbours, width, start, half):
    keys, values = draw(2, length, width), draw(3, length, 80)
    target = poisoned(2, 200, width, device=keys.device), poisoned(3, 200, 80, device=keys.device)
    rows, angle = scattered(length, 200), draw(length, half).double() * 3
    turn = angle.cos().float(), angle.sin().float()
    rotate_gather((keys, values), target, turn, rows, start=start, neighbours=neighbours, fused=fused)
    expected = rotation(keys, angle, start, neighbours)
    assert (only(target[0], rows).double() - expected).abs().max() < 1e-6
    assert torch.equal(only(target[1], rows), values)


def test_without_angles_keys_are_copied(fused, draw, scattered):
    keys, values, rows = draw(2, 9, 64), draw(2, 9, 64), scattered(9, 30)
    target = poisoned(2, 30, 64, device=keys.device), poisoned(2, 30, 64, device=keys.device)
    rotate_gather((keys, values), target, None, rows, fused=fused)
    assert torch.equal(only(target[0], rows), keys)
    assert torch.equal(only(target[1], rows), values)


def test_without_rows_the_first_ones_are_meant(fused, draw):
    keys, values, angle = draw(2, 9, 64), draw(2, 9, 64), draw(9, 32).double()
    buffers = poisoned(2, 30, 64, device=keys.device), poisoned(2, 30, 64, device=keys.device)
    target = buffers[0][:, 10:19], buffers[1][:, 10:19]
    rotate_gather((keys, values), target, (angle.cos().float(), angle.sin().float()), fused=fused)
    rows = torch.arange(10, 19, device=keys.device)
    expected = rotation(keys, angle, 0, neighbours=False)
    assert (only(buffers[0], rows).double() - expected).abs().max() < 1e-6
    assert torch.equal(only(buffers[1], rows), values)


def test_bfloat16_keys_are_turned_in_float32(fused, draw, scattered):
    keys, rows, angle = draw(2, 65, 64, dtype=torch.bfloat16), scattered(65, 80), draw(65, 32).double()
    target = tuple(poisoned(2, 80, 64, dtype=torch.bfloat16, device=keys.device) for _ in "kv")
    rotate_gather((keys, keys), target, (angle.cos().float(), angle.sin().float()), rows, fused=fused)
    expected = rotation(keys, angle, 0, neighbours=False)
    assert (only(target[0], rows).double() - expected).abs().max() <= expected.abs().max() * 2**-8


def test_a_layer_without_heads_and_no_rows_change_nothing(fused, draw):
    target = poisoned(0, 30, 64), poisoned(2, 30, 64)
    none = torch.zeros(0, dtype=torch.long)
    rotate_gather((draw(0, 0, 64).cpu(), draw(2, 0, 64).cpu()), target, None, none, fused=fused)
    assert target[1].isnan().all()


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("power", [1, 2])
def test_deviation_is_summed_over_heads_and_sides(fused, draw, scattered, length, power):
    cached, rows = (draw(2, 150, 64), draw(3, 150, 96)), scattered(length, 150)
    fresh = draw(2, length, 64), draw(3, length, 96)
    before = tuple(side.clone() for side in cached)
    got = kv_deviation(cached, fresh, rows, power=power, fused=fused)
    gaps = [(new.double() - old[:, rows].double()).abs() ** power for old, new in zip(before, fresh, strict=True)]
    expected = sum(gap.sum(dim=(0, 2)) for gap in gaps)
    assert got.dtype == torch.float32
    assert ((got.double() - expected) / expected).abs().max() < 1e-6
    assert all(map(torch.equal, cached, before))


def projected(x, weights, angle, heads):
    """What a layer makes of its input, step by step in float64."""

    def rms(x, weight):
        return x * (x.square().mean(-1, keepdim=True) + weights.eps).rsqrt() * (weight.double() + weights.offset)

    normed, sides = rms(x.double(), weights.norm), []
    for matrix, bias in ((weights.k, weights.k_bias), (weights.v, weights.v_bias)):
        made = normed @ matrix.double().T + (0 if bias is None else bias.double())
        sides.append(made.view(len(x), heads, -1).transpose(0, 1))
    keys = sides[0] if weights.k_norm is None else rms(sides[0], weights.k_norm)
    return rotation(keys, angle, 0, neighbours=False), sides[1]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("extras", [False, True], ids=["plain", "biases and key norm"])
def test_projection_equals_the_layers_own_steps(fused, draw, scattered, length, extras):
    heads, width, hidden = 2, 64, 80
    weights = Projection(
        norm=draw(hidden), eps=1e-6, k=draw(heads * width, hidden), v=draw(heads * width, hidden),
        k_bias=draw(heads * width) if extras else None, v_bias=draw(heads * width) if extras else None,
        k_norm=draw(width) if extras else None, offset=float(extras),
    )  # fmt: skip
    x, rows, angle = draw(length, hidden), scattered(length, 150), draw(length, width // 2).double()
    target = tuple(poisoned(heads, 150, width, device=x.device) for _ in "kv")
    project_kv(x, weights, (angle.cos().float(), angle.sin().float()), target, rows, fused=fused)
    for got, expected in zip(target, projected(x, weights, angle, heads), strict=True):
        assert (only(got, rows).double() - expected).abs().max() < 2e-6 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_projection_into_a_part_of_a_buffer_with_a_models_own_angles(fused, draw, dtype):
    """Angles as models have them: both halves, in the model's dtype, and a view; no rows are named."""
    heads, width, hidden, length = 2, 32, 48, 33
    weights = Projection(*(draw(hidden, dtype=dtype), 1e-6), *(draw(heads * width, hidden, dtype=dtype) for _ in "kv"))
    x, angle = draw(2 * length, hidden, dtype=dtype)[::2], draw(length, width // 2)
    turn = tuple(torch.cat([part, part], dim=-1).to(dtype)[:, : width // 2] for part in (angle.cos(), angle.sin()))
    buffers = tuple(poisoned(heads, 60, width, dtype=dtype, device=x.device) for _ in "kv")
    project_kv(x, weights, turn, (buffers[0][:, 20:53], buffers[1][:, 20:53]), fused=fused)
    pair = torch.complex(turn[0].double(), turn[1].double())
    assert pair.abs().max() < 1.01
    wanted = projected(x, weights, pair.angle(), heads)
    for got, expected in zip(buffers, wanted, strict=True):
        error = (only(got, torch.arange(20, 53, device=x.device)).double() - expected).abs().max()
        assert error < (2e-6 if dtype == torch.float32 else 2**-6) * expected.abs().max()


def test_bad_shapes_are_refused_in_one_line(draw):
    rows, pair = torch.zeros(2, dtype=torch.long), (draw(2, 2, 64), draw(2, 2, 64))
    target, weights = (draw(2, 9, 64), draw(2, 9, 64)), Projection(draw(8), 1e-6, draw(100, 8), draw(128, 8))
    with pytest.raises(ValueError, match="do not fit"):
        rotate_gather((draw(2, 3, 64), draw(2, 3, 64)), target, None, rows)
    with pytest.raises(ValueError, match="angles"):
        rotate_gather(pair, target, (draw(2, 40), draw(2, 40)), rows)
    with pytest.raises(ValueError, match="1 or 2"):
        kv_deviation(target, pair, rows, power=3)
    with pytest.raises(ValueError, match="projections"):
        project_kv(draw(2, 8), weights, (draw(2, 32), draw(2, 32)), target, rows)
