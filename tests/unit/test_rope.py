from __future__ import annotations

import pytest
import torch

from nbkv.kv import KV
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.probing.probe import adapt
from nbkv.models.probing.rotary import alone, probed_positions
from nbkv.rope import HALVES, NEIGHBOURS, Rope, Rotation

MOVABLE = (
    "cohere cohere2 falcon gemma2 gemma3 gemma3n gemma4 glm4 gpt_neox granite llama mistral mixtral olmo2 olmoe phi "
    "phi3 qwen2 qwen2_vl qwen3 qwen3_moe qwen3_vl smollm3 starcoder2"
).split()


def error(got, expected):
    return float((got - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def rotated(keys, positions, frequencies, pairing):
    """Plain complex rotation, token by token: the definition."""
    out = keys.clone()
    half = len(frequencies)
    for t, position in enumerate(positions.tolist()):
        for pair, frequency in enumerate(frequencies.tolist()):
            i, j = (pair, pair + half) if pairing == HALVES else (2 * pair, 2 * pair + 1)
            turn = torch.polar(torch.tensor(1.0), torch.tensor(position * frequency))
            value = torch.complex(keys[:, t, i], keys[:, t, j]) * turn
            out[:, t, i], out[:, t, j] = value.real, value.imag
    return out


@pytest.mark.parametrize("pairing", [HALVES, NEIGHBOURS])
def test_a_turn_is_the_rotation_of_its_definition(pairing):
    keys = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    rotation = Rotation(torch.tensor([1.0, 0.3, 0.01, 0.002]), pairing, 2)
    positions = torch.tensor([0, 3, 4, 90, 7])
    got = rotation.rotate(keys, *rotation.angles(torch.zeros_like(positions), positions))

    assert torch.equal(got[..., :2], keys[..., :2])
    assert torch.equal(got[..., 10:], keys[..., 10:])
    assert error(got[..., 2:10], rotated(keys[..., 2:10], positions, rotation.frequencies, pairing)) < 1e-5


def test_moves_compose_and_leave_values_alone():
    draw = torch.Generator().manual_seed(1)
    kv = KV((torch.randn(2, 6, 8, generator=draw),) * 2, (torch.randn(2, 6, 8, generator=draw),) * 2)
    rope = Rope((Rotation(torch.tensor([1.0, 0.1, 0.01, 0.001]), HALVES, 0), None))
    zero, there, far = torch.arange(6), torch.arange(6) + 40, torch.arange(6) * 3 + 900
    once, twice = rope.move(kv, zero, far), rope.move(rope.move(kv, zero, there), there, far)

    assert error(once.keys[0], twice.keys[0]) < 1e-5
    assert once.keys[1] is kv.keys[1]
    assert once.values == kv.values
    assert error(rope.move(once, far, zero).keys[0], kv.keys[0]) < 1e-5


@pytest.mark.parametrize("family", MOVABLE)
def test_a_model_teaches_how_its_keys_turn(make_model, family):
    far = {"max_position_embeddings": 40_000}
    nested = {"text_config": None} if family.endswith("_vl") else {}
    model = make_model(family) if nested else make_model(family, **far)
    adapter = adapt(model, family)
    assert adapter.capabilities.relocation, adapter.capabilities.refused

    positions = probed_positions(adapter, 32_768)
    keys, values = alone(adapter, torch.tensor([3, 50, 170]), positions)
    at_zero = [layer[0][:, :, None].expand(-1, -1, len(positions), -1) for layer in keys]
    moved = adapter.rope.keys(at_zero, torch.zeros_like(positions), positions)

    assert int(positions[-1]) == (32_767 if not nested else 511)
    assert (
        max(error(got, layer.permute(1, 2, 0, 3)) for got, layer in zip(moved, keys, strict=True) if got.numel()) < 1e-4
    )
    assert all(error(layer, layer[:1].expand_as(layer)) < 1e-4 for layer in values if layer.numel())


@pytest.mark.parametrize("base", [1, 100, 3000])
@pytest.mark.parametrize("family", ["llama", "gemma3", "phi", "cohere", "smollm3"])
def test_text_moved_equals_text_encoded_there(make_model, family, base):
    adapter = adapt(make_model(family, max_position_embeddings=4096), family)
    ids, here, there = torch.arange(30) * 7 % 190, GrowingCache(), GrowingCache()
    adapter.forward(ids, here, start=0)
    adapter.forward(ids, there, start=base)
    old = torch.arange(30)
    moved, expected = adapter.rope.move(here.read(0, 30), old, old + base), there.read(0, 30)

    for got, want in zip((*moved.keys, *moved.values), (*expected.keys, *expected.values), strict=True):
        assert error(got, want) < 1e-4


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("linear", {"factor": 4.0}),
        (
            "llama3",
            {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
        ),
        ("yarn", {"factor": 4.0, "original_max_position_embeddings": 64}),
    ],
)
def test_scaled_ropes_are_moved_too(make_model, kind, more):
    rope = {"rope_type": kind, "rope_theta": 10000.0} | more
    adapter = adapt(make_model("llama", rope_parameters=rope), kind)
    positions = probed_positions(adapter, 512)
    keys, _ = alone(adapter, torch.tensor([9, 80]), positions)
    at_zero = [layer[0][:, :, None].expand(-1, -1, len(positions), -1) for layer in keys]
    moved = adapter.rope.keys(at_zero, torch.zeros_like(positions), positions)

    assert adapter.capabilities.relocation
    assert max(error(got, layer.permute(1, 2, 0, 3)) for got, layer in zip(moved, keys, strict=True)) < 1e-5


def test_half_precision_moves_within_its_rounding(make_model):
    adapter = adapt(make_model("qwen3").to(torch.bfloat16), "qwen3")
    positions = probed_positions(adapter, 512)
    keys, _ = alone(adapter, torch.tensor([9, 80]), positions)
    at_zero = [layer[0][:, :, None].expand(-1, -1, len(positions), -1) for layer in keys]
    moved = adapter.rope.keys(at_zero, torch.zeros_like(positions), positions)

    assert moved[0].dtype == torch.bfloat16
    assert max(error(got, layer.permute(1, 2, 0, 3)) for got, layer in zip(moved, keys, strict=True)) < 4 * 2**-8
