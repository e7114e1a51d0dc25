from __future__ import annotations

import pytest
import torch

from nbkv.families.residual.row_buffer import BLOCK, QuantisedRows, RowBuffer, quantised_bytes


def filled(rows, pieces):
    store = rows
    for piece in pieces:
        store.add(piece)
    return store


@pytest.mark.parametrize("lead", [(1,), (1, 3), (4, 1)])
def test_rows_come_back_as_they_went_in(lead):
    whole = torch.randn(*lead, 200, 8)
    rows = filled(RowBuffer(), whole.split([1, 70, 63, 1, 65], dim=-2))
    assert rows.length == 200
    for start, stop in ((0, 200), (0, 1), (63, 66), (130, 200)):
        assert torch.equal(rows.joined(start, stop), whole[..., start:stop, :])
    assert torch.equal(rows.copy().joined(0, 200), whole)


def test_memory_is_whole_blocks_and_is_given_back():
    rows = filled(RowBuffer(), torch.randn(1, 300, 8).split(50, dim=-2))
    assert rows.nbytes == -(-300 // BLOCK) * BLOCK * 8 * 4
    rows.truncate(10)
    assert (rows.length, rows.nbytes) == (10, BLOCK * 8 * 4)
    rows.add(torch.ones(1, 5, 8))
    assert torch.equal(rows.joined(10, 15), torch.ones(1, 5, 8))
    rows.truncate(0)
    assert rows.nbytes == 0


@pytest.mark.parametrize(("bits", "width"), [(8, 128), (4, 128), (8, 48), (4, 96)])
def test_quantised_rows_are_within_half_a_step(bits, width):
    whole = torch.randn(1, 64, width)
    rows = QuantisedRows(bits)
    for piece in whole.split(20, dim=-2):
        rows.add(piece)
    got = rows.joined(0, 64)
    spread = float(whole.amax() - whole.amin())
    assert float((got - whole).abs().max()) <= 0.51 * spread / (2**bits - 1)
    assert rows.nbytes == 64 * quantised_bytes(width, bits)
    assert torch.equal(rows.copy().joined(3, 9), got[:, 3:9])


def test_rows_without_spread_come_back():
    rows = QuantisedRows(4)
    rows.add(torch.full((1, 3, 64), 2.5))
    assert torch.equal(rows.joined(0, 3), torch.full((1, 3, 64), 2.5))
