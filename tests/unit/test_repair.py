"""What recomputed rows tell of a chunk's others: a change that all share is found, an outlier is not followed."""

from __future__ import annotations

import pytest
import torch

from nbkv.families.blend.repair import LayerRepair, RepairedChunk, typical


def test_one_outlier_does_not_make_the_typical_change():
    changes = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1e6]]])
    assert torch.allclose(typical(changes), torch.tensor([[[1.0, 1 / 3]]]), atol=1e-3)
    assert torch.equal(typical(torch.zeros(2, 3, 4)), torch.zeros(2, 1, 4))


@pytest.mark.parametrize("family", ["llama", "cohere2"])
def test_a_change_that_all_rows_share_is_undone_wherever_they_stand(session_of, family):
    rope, places = session_of(family).adapter.rope, torch.arange(12)
    rotation, heads, width = rope.layers[0], 2, session_of(family).adapter.capabilities.key_dim[0]
    draw = torch.Generator().manual_seed(1)
    plain, shift = torch.randn(heads, 12, width, generator=draw), torch.randn(heads, 1, width, generator=draw)
    turned = lambda keys: rotation.rotate(keys, *rotation.angles(torch.zeros_like(places), places))  # noqa: E731
    true, cached = turned(plain + shift), turned(plain)
    values = plain + shift, plain.clone()
    chosen, others = torch.tensor([1, 4, 7]), torch.tensor([2, 3, 5, 6])
    repair = LayerRepair([RepairedChunk(chosen, others)], rotation, 1.0)

    at = torch.tensor([0, 1, 4, 7, 11])
    before = cached.clone()
    repair((cached, values[1]), (true[:, at], values[0][:, at]), at)

    assert torch.allclose(cached[:, others], true[:, others], atol=1e-5)
    assert torch.allclose(values[1][:, others], values[0][:, others], atol=1e-5)
    untouched = torch.tensor([0, 1, 4, 7, 8, 9, 10, 11])
    assert torch.equal(cached[:, untouched], before[:, untouched]), "only the chunk's other rows move"
