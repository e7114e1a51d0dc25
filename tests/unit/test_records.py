from __future__ import annotations

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import nbkv
from nbkv.sweep.records import MIME, recorded


def outputs_of(capture, monkeypatch, **values):
    monkeypatch.setattr("IPython.core.getipython.get_ipython", object)
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: capture.append(bundle))
    nbkv.record(**values)
    return capture[-1]


def test_values_travel_in_a_bundle_with_a_line_of_text(monkeypatch):
    bundle = outputs_of([], monkeypatch, hit_rate=np.float32(0.5), same=np.bool_(True), name="x", n=np.int64(3))
    assert bundle[MIME] == [("hit_rate", 0.5), ("same", True), ("name", "x"), ("n", 3)]
    assert bundle["text/plain"] == "recorded hit_rate = 0.5, same = True, name = x, n = 3"


def test_the_last_value_of_a_name_is_kept_in_the_order_of_first_use():
    data = ([["b", 1], ["a", 0]], [["c", 2]], [["b", 3]])
    cells = [new_code_cell(outputs=[new_output("display_data", {MIME: pairs})]) for pairs in data]
    assert list(recorded(new_notebook(cells=cells)).items()) == [("b", 3), ("a", 0), ("c", 2)]


@pytest.mark.parametrize("value", [object(), np.zeros(2), {1: {2}}])
def test_what_cannot_be_written_is_refused(value):
    with pytest.raises(nbkv.BadOption, match="cannot record thing"):
        nbkv.record(thing=value)


def test_outside_a_notebook_nothing_happens(capsys):
    nbkv.record(thing=1)
    assert capsys.readouterr() == ("", "")
