"""Which models may run several sequences in one pass is found out on their own logits."""

from __future__ import annotations

import pytest
import torch

from nbkv.models.probing import packing
from nbkv.models.probing.probe import adapt


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "mixtral", "qwen2_vl", "smollm3"])
def test_these_may(model_of, family):
    assert packing.why_not_packed(adapt(model_of(family), family)) == ""


@pytest.mark.parametrize("family", ["bloom", "gpt2", "gemma3n", "falcon"])
def test_these_may_not_and_the_reason_is_told(model_of, family):
    assert packing.why_not_packed(adapt(model_of(family), family))


@pytest.mark.parametrize("crowded", ["mean of all rows", "most of a row", "refuses"])
def test_a_model_whose_rows_meet_outside_of_attention_is_found_out(make_model, crowded):
    adapter = adapt(make_model("llama"), "llama")

    def meet(module, args, output):
        if crowded == "refuses" and output.shape[1] > 12:
            raise RuntimeError
        return output + 0.1 * (output.mean(1, keepdim=True) if crowded == "mean of all rows" else output.roll(1, 1))

    handle = adapter.model.model.layers[1].mlp.register_forward_hook(meet)
    try:
        why = packing.why_not_packed(adapter)
    finally:
        handle.remove()
    assert "one pass" in why
    assert torch.is_inference_mode_enabled() is False
