"""Stacked bars: parts one behind another, figures in words, a picture, words for every bar."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from nbkv.show.stacks import Stack, stacks

BARS = [Stack("every 32 tokens", {"states": 40.0, "K/V": 12.0}, "22 % computed"), Stack("few", {"states": 8.0})]


def test_parts_lie_behind_each_other():
    states, kv = stacks("Bytes", "MB", BARS, unit="MB").figure.data
    assert ([*states.x], [*states.base]) == ([40, 8], [0, 0])
    assert ([*kv.x], [*kv.base]) == ([12, 0], [40, 8])
    assert states.marker.pattern.shape != kv.marker.pattern.shape  # colour is never the only sign


@pytest.mark.parametrize(
    ("bars", "percent", "words"),
    [
        (BARS, False, "every 32 tokens: states 40 MB, K/V 12 MB, 22 % computed"),
        (BARS[1:], False, "few: 8 MB"),
        ([Stack("h2o", {"match": 0.825}, "KL 0.1")], True, "h2o: 82.5 %, KL 0.1"),
    ],
)
def test_every_bar_has_its_figures_in_words(bars, percent, words):
    drawn = stacks("Title", "what is long", bars, unit="MB", percent=percent)
    assert words in [note.text for note in drawn.figure.layout.annotations]
    assert words in repr(drawn)
    with Image.open(io.BytesIO(drawn.png())) as picture:
        assert picture.getchannel("A").getbbox() is not None
        assert picture.width == 2 * drawn.figure.layout.width
    if percent:
        assert drawn.figure.layout.xaxis.ticktext[-1] == "100 %"
