from __future__ import annotations

import pytest
import torch
from transformers.cache_utils import DynamicCache

from nbkv.models.caches.growing import GrowingCache


def states(n, seed=0):
    torch.manual_seed(seed)
    return torch.randn(1, 2, n, 4), torch.randn(1, 2, n, 4)


def test_appending_gives_what_concatenation_gives():
    ours, theirs = GrowingCache(), DynamicCache()
    for step, n in enumerate((5, 1, 1, 130, 1, 64)):
        for layer in range(2):
            keys, values = states(n, seed=10 * step + layer)
            got, expected = ours.update(keys, values, layer), theirs.update(keys, values, layer)

            assert torch.equal(got[0], expected[0])
            assert torch.equal(got[1], expected[1])
    assert ours.length == theirs.get_seq_length()


def test_one_token_moves_no_other():
    cache = GrowingCache(reserve=100)
    cache.update(*states(10), 0)
    where = cache.layers[0].keys.data_ptr()
    for _ in range(90):
        keys, _ = cache.update(*states(1), 0)

    assert keys.data_ptr() == where
    assert cache.layers[0].capacity == 128


def test_rows_go_to_their_positions_in_any_order():
    keys, values = states(150)
    whole, scattered = GrowingCache(), GrowingCache()
    whole.update(keys, values, 0)
    order = torch.randperm(150)
    scattered.update(keys[:, :, :1], values[:, :, :1], 0)
    for rows in order.split(37):
        with scattered.writing(rows):
            scattered.update(keys[:, :, rows], values[:, :, rows], 0)

    assert torch.equal(scattered.layers[0].keys, whole.layers[0].keys)
    assert torch.equal(scattered.layers[0].values, whole.layers[0].values)


def test_writing_ends_with_its_block_also_after_an_exception():
    cache = GrowingCache()
    cache.update(*states(3), 0)
    with pytest.raises(RuntimeError), cache.writing(torch.tensor([0])):
        raise RuntimeError

    cache.update(*states(2), 0)
    assert cache.length == 5


def test_read_write_truncate_fit():
    cache, other = GrowingCache(reserve=1000), GrowingCache()
    for layer in range(2):
        cache.update(*states(200, seed=layer), layer)
    other.write(0, cache.read(0, 200).compact())
    other.truncate(130)
    other.fit()

    assert other.length == 130
    assert other.layers[0].capacity == 192
    assert torch.equal(other.layers[1].values, cache.layers[1].values[:, :, :130])


def test_crop_takes_transformers_negative_count():
    cache = GrowingCache()
    cache.update(*states(10), 0)
    cache.crop(-3)

    assert cache.get_seq_length() == 7
    with pytest.raises(ValueError, match="negative"):
        cache.crop(3)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}])
def test_it_serves_inside_generate(model_of, options):
    model = model_of("llama")
    ids = torch.randint(3, 190, (1, 20), generator=torch.Generator().manual_seed(0))
    asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "pad_token_id": 1, **options}
    torch.manual_seed(5)
    expected = model.generate(ids, **asked)
    torch.manual_seed(5)
    got = model.generate(ids, past_key_values=GrowingCache(), **asked)

    assert torch.equal(got, expected)


def test_it_continues_inside_generate(model_of):
    model = model_of("gemma2")
    ids = torch.randint(3, 190, (1, 30), generator=torch.Generator().manual_seed(1))
    cache = GrowingCache()
    with torch.no_grad():
        model(ids[:, :20], past_key_values=cache, use_cache=True)
    asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 8, "do_sample": False, "pad_token_id": 1}

    assert torch.equal(model.generate(ids, past_key_values=cache, **asked), model.generate(ids, **asked))
