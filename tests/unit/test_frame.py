import re
from html import unescape

import pandas as pd
import pytest

from nbkv.show.frame import CELL, ROWS, TOLD, Frame
from nbkv.show.page import EDGES, LETTER, STEP
from nbkv.show.units import cut

NOTE = "chunks encoded behind a primer because $12 and $5 of <b>the</b> first tokens gather attention; " * 5


@pytest.mark.parametrize("text", [NOTE, "$1\n$2\n" * 50, "<script>x</script>"])
def test_texts_are_one_line_that_unfolds_and_no_formulas(text):
    html = Frame({"n": [1, 2], "notes": [text, "–"]})._repr_html_()
    assert "tex2jax_ignore mathjax_ignore" in html
    assert "<script" not in html
    assert "<b>the" not in html
    line, _ = re.findall(r'data-name="notes".*?>(.*?)</td>', html)
    shown = re.match(r"<details><summary>(.*?)</summary><div[^>]*>(.*?)</div></details>$", line)
    assert bool(shown) == (len(text) > CELL)
    if shown:
        assert len(unescape(shown[1])) == CELL
        assert unescape(shown[2]) == cut(" ".join(text.split()), TOLD)


@pytest.mark.parametrize("columns", [1, 8, 30])
def test_a_frame_becomes_a_list_where_it_is_wider_than_its_place(columns):
    html = Frame({f"column_{n}": [1.5, 2.5] for n in range(columns)})._repr_html_()
    (width,) = re.findall(r'<table class="nbkv-fits-(\d+)"', html)
    assert f"@container (max-width:{width}px){{.nbkv-fits-{width} thead" in html
    about = (columns * len("column_0") + 1) * LETTER + (columns + 1) * EDGES
    assert abs(int(width) - about) <= STEP + 0.15 * about


MAKE = {
    "rows": lambda f: f[f.n > 1],
    "sorted": lambda f: f.sort_values("n"),
    "more": lambda f: f.assign(m=2),
    "copied": lambda f: f.copy(),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_what_is_made_of_one_is_drawn_alike_and_is_a_pandas_frame(make):
    frame = Frame({"n": [1, 2, 3], "x": [0.123456, float("nan"), 2.0]})
    made = make(frame)
    assert isinstance(made, pd.DataFrame)
    assert "nbkv-frame" in made._repr_html_()
    assert made.to_csv() == make(pd.DataFrame(frame)).to_csv()


def test_numbers_are_short_and_what_is_missing_is_a_dash():
    html = Frame({"x": [0.123456, float("nan")], "y": [None, "a"]})._repr_html_()
    assert ">0.1235<" in html
    assert html.count(">–<") == 2


@pytest.mark.parametrize("rows", [0, ROWS, ROWS + 1, 5_000])
def test_long_frames_show_both_ends_and_say_how_many_rows_there_are(rows):
    html = Frame({"n": range(rows)})._repr_html_()
    assert html.count("<tr>") == min(rows, ROWS) + 1 + (rows > ROWS)
    assert f"{rows:,} row" in html
    assert (f"… {rows - ROWS:,} more …" in html) == (rows > ROWS)
