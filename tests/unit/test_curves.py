"""Curves: at most six, each named at its end, the same colour for the same name, intervals, and a picture beside."""

from __future__ import annotations

import io
import json
from itertools import pairwise

import pytest
from PIL import Image

from nbkv.show.curves import Curve, Panel, apart, curves
from nbkv.show.drawing import PLOTLY
from nbkv.show.palette import SERIES

NAMES = ("full", "prefix", "epic", "prophet", "passage", "influence")


def curve(name, *y, spread=0.0):
    x = list(range(1, len(y) + 1))
    if not spread:
        return Curve(name, x, y)
    return Curve(name, x, y, [value - spread for value in y], [value + spread for value in y])


def notes(drawn):
    return {note.text: note for note in drawn.figure.layout.annotations}


def lines(drawn, name):
    return [trace for trace in drawn.figure.data if trace.name == name]


@pytest.mark.parametrize("names", [NAMES, NAMES[1:4], NAMES[:1]])
def test_every_curve_is_named_at_its_end_in_its_colour(names):
    drawn = curves("Title", Panel("distance", [curve(name, 1 + n, 2 + n) for n, name in enumerate(names)]))
    for name in names:
        note, (line,) = notes(drawn)[name], lines(drawn, name)
        assert note.font.color == line.line.color
        assert note.x > 1  # right of the area
    assert len({lines(drawn, name)[0].line.color for name in names}) == len(names)
    assert len({lines(drawn, name)[0].marker.symbol for name in names if name != "full"}) == len({*names} - {"full"})
    assert not drawn.figure.layout.showlegend


def test_a_name_keeps_its_colour_in_all_panels_and_full_is_always_grey():
    first, second = [curve("epic", 1, 2), curve("full", 2, 3)], [curve("prophet", 1, 1), curve("epic", 3, 1)]
    drawn = curves("Title", Panel("one", first), Panel("two", second))
    assert len({line.line.color for line in lines(drawn, "epic")}) == 1
    assert lines(drawn, "full")[0].line.color == SERIES[-1]
    assert len({lines(drawn, name)[0].line.color for name in ("epic", "prophet", "full")}) == 3


@pytest.mark.parametrize("count", [7, 8, 20])
def test_too_many_curves_are_refused(count):
    with pytest.raises(ValueError, match=f"{count} lines in 'all of them': at most 6"):
        curves("Title", Panel("all of them", [curve(f"s{n}", n, n) for n in range(count - 1)], level=1.0))


def test_an_interval_is_a_band_around_its_curve():
    drawn = curves("Title", Panel("distance", [curve("epic", 4, 5, spread=1)]))
    (band,) = [trace for trace in drawn.figure.data if trace.fill == "toself"]
    assert [*band.y] == [5, 6, 4, 3]
    assert not [trace for trace in curves("T", Panel("d", [curve("epic", 4)])).figure.data if trace.fill]


@pytest.mark.parametrize("heights", [(0.5, 0.5, 0.5), (0, 0.01, 0.02, 1), (0.99, 1.0, 1.0), (0.1,), ()])
def test_labels_keep_their_distance_and_their_order(heights):
    placed = apart([(str(n), height) for n, height in enumerate(heights)], 0.1)
    assert all(b - a >= 0.1 - 1e-9 for (_, a), (_, b) in pairwise(placed))
    assert all(-1e-9 <= at <= 1 + 1e-9 for _, at in placed)
    assert [heights[int(name)] for name, _ in placed] == sorted(heights)


def test_the_output_has_a_picture_words_and_plotly():
    drawn = curves(
        "What $3 in $5 buy",
        Panel("distance", [curve("epic", 0.5, 1e-9, spread=0.1)], floor=1e-4, x="turn"),
        Panel("share", [curve("full", 0.25, 0.5)], y_percent=True, level=0.75),
    )
    data, about = drawn._repr_mimebundle_()
    with Image.open(io.BytesIO(data["image/png"])) as picture:
        assert picture.size == (2 * drawn.figure.layout.width, 2 * drawn.figure.layout.height)
        assert picture.mode == "RGBA"
        assert picture.getpixel((1, picture.height - 1))[3] == 0  # a clear ground, for any theme
        seen = {colour for count, colour in picture.getcolors(2**24) if count > 50}
    blue, grey = (tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5)) for colour in (SERIES[0], SERIES[-1]))
    assert {(*blue, 255), (*grey, 255)} <= seen
    assert about["image/png"] == {"width": drawn.figure.layout.width, "height": drawn.figure.layout.height}
    assert json.loads(json.dumps(data[PLOTLY]))["layout"]["annotations"]
    assert "epic  1: 0.5, 2: 1e-09" in data["text/plain"]
    assert "25 %" in data["text/plain"]
