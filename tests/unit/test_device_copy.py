"""Copies to where layers are: at once on a CPU, beside the device's own work on a GPU."""

from __future__ import annotations

import pytest
import torch

from nbkv.stores.reading.device_copy import DeviceCopy


def test_on_a_cpu_a_copy_is_over_when_it_returns():
    copies, into = DeviceCopy(), torch.zeros(2, 3)
    copies.copy(0, torch.ones(2, 3), into)
    assert into.sum() == 6
    copies.need(0)
    copies.need(1)
    copies.finish()
    assert not copies._streams


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_a_layer_that_was_needed_has_its_copy():
    source = [torch.randn(8, 4096, 128) for _ in range(8)]
    into, copies = [torch.zeros(8, 4096, 128, device="cuda") for _ in source], DeviceCopy()
    for layer, each in enumerate(source):
        copies.copy(layer, each, into[layer])
    for layer, each in enumerate(source):
        copies.need(layer)
        assert torch.equal((into[layer] + 0).cpu(), each)
    copies.finish()
    assert not copies._over
    assert len(copies._streams) == 1
