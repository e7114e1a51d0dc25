"""Attention under the model's own mask with grouped heads: the same numbers, and no copy of the keys."""

from __future__ import annotations

from threading import Thread

import pytest
import torch
from transformers.integrations import sdpa_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from nbkv.models.attention import positions
from nbkv.models.attention.intercept import replaced_attention

IDS = [number % 90 + 5 for number in range(300)]


@pytest.fixture
def copies(monkeypatch):
    """Collect the shapes of keys and values that transformers writes out once a query head."""
    seen, own = [], sdpa_attention.repeat_kv

    def repeat(states, times):
        seen.append(states.shape)
        return own(states, times)

    monkeypatch.setattr(sdpa_attention, "repeat_kv", repeat)
    return seen


def continued(adapter, start):
    """Return the logits ``[n, V]`` and the K/V of a pass behind ``start`` tokens."""
    cache = adapter.growing(len(IDS))
    adapter.forward(adapter.tensor(IDS[:start]), cache, start=0)
    logits = adapter.forward(adapter.tensor(IDS[start:]), cache, start=start, keep=len(IDS) - start)
    kv = cache.read(0, len(IDS))
    return torch.stack([logits.double().sum(), *(each.double().sum() for each in kv.keys + kv.values)]), logits


@pytest.mark.parametrize("start", [2, 288])
def test_rows_behind_a_prefix_get_the_same_numbers_without_a_copy_of_the_keys(
    session_of, family, start, copies, monkeypatch
):
    adapter = session_of(family).adapter
    known = adapter.capabilities
    if not known.per_token or known.groups == 1 or adapter.config._attn_implementation != "sdpa" or not known.ranges:
        pytest.skip("no pass of this model is changed")
    copies.clear()  # those of the proofs at load
    sums, logits = continued(adapter, start)
    assert not copies
    monkeypatch.setattr(positions.PassAttention, "_copies_keys", lambda *_: False)
    own_sums, own = continued(adapter, start)

    assert copies
    assert torch.equal(logits, own)
    assert torch.equal(sums, own_sums)


def test_what_replaces_attention_is_gone_afterwards_also_after_an_error(session_of):
    session = session_of("llama")
    names = set(ALL_ATTENTION_FUNCTIONS._global_mapping), set(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping)
    continued(session.adapter, 288)
    with pytest.raises(ZeroDivisionError), replaced_attention(session.adapter.config, print, masks=True):
        raise ZeroDivisionError
    assert (set(ALL_ATTENTION_FUNCTIONS._global_mapping), set(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping)) == names
    assert session.adapter.config._attn_implementation == "sdpa"


def test_models_of_several_threads_do_not_take_each_others_place(make_model):
    configs, seen = [make_model("llama").config for _ in range(2)], []

    def attend(number):
        with replaced_attention(configs[number], lambda *_: number):
            if not number:
                other = Thread(target=attend, args=(1,))
                other.start()
                other.join()
            seen.append(ALL_ATTENTION_FUNCTIONS[configs[number]._attn_implementation](None))

    attend(0)
    assert seen == [1, 0]
