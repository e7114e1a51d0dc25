"""A figure as an output, and its picture: what is not known how to draw is refused, never left out."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from nbkv.show.curves import Curve, Panel, curves
from nbkv.show.drawing import drawing, suffix
from nbkv.show.picture import png


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 2, 1), (3, 2, 2), (4, 3, 2)])
def test_panels_do_not_overlap(n, columns, rows):
    figure = drawing("Title", n, columns=columns, area=(300, 200), room=80)
    boxes = [
        (*figure.layout[f"xaxis{suffix(at)}"].domain, *figure.layout[f"yaxis{suffix(at)}"].domain)
        for at in range(1, n + 1)
    ]
    assert len({box[2] for box in boxes}) == rows
    for index, (left, right, bottom, top) in enumerate(boxes):
        assert 0 <= left < right <= 1
        assert 0 <= bottom < top <= 1
        for other in boxes[:index]:
            assert right < other[0] or other[1] < left or top < other[2] or other[3] < bottom


@pytest.mark.parametrize("kind", ["pie", "heatmap", "box"])
def test_a_picture_leaves_nothing_out(kind):
    figure = drawing("Title", 1, columns=1, area=(100, 100), room=10)
    figure.layout.xaxis.update(range=[0, 1], tickvals=[], ticktext=[])
    figure.layout.yaxis.update(range=[0, 1], tickvals=[], ticktext=[])
    figure.add_trace({"type": kind})
    with pytest.raises(ValueError, match=f"a picture of '{kind}' is not known"):
        png(figure)


def test_a_drawing_is_saved(tmp_path):
    drawn = curves("Title", Panel("one", [Curve("epic", [1, 2], [3, 4])]))
    drawn.save(str(tmp_path / "a.png"))
    with Image.open(tmp_path / "a.png") as saved, Image.open(io.BytesIO(drawn.png())) as shown:
        assert saved.size == shown.size
