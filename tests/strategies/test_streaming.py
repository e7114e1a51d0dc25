"""Attention sinks and the newest tokens stay."""

from __future__ import annotations

from nbkv.strategy import parse

HEADS = 2  # those of `layer_of`


def test_streaming_keeps_sinks_and_the_newest(layer_of, left):
    assert left(parse("streaming(sinks=2)"), layer_of(9), 9, 5) == [[0, 1, 6, 7, 8]] * HEADS
    assert left(parse("streaming"), layer_of(9), 9, 3) == [[0, 1, 8]] * HEADS  # the newest has room all the same
