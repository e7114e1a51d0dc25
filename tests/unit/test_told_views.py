"""What views tell at a glance: one row a reason, the row that was looked for, sizes and ends in words."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from nbkv.show.certificate import certificate_html
from nbkv.show.frame import Frame
from nbkv.show.page import emphasised, table_html
from nbkv.show.report import report_html
from nbkv.show.why import reasons, why_data, why_html, why_text


def miss(start, stop, cause="chosen", detail="epic ran them again", *, saves=0, seconds=None):
    about = {"fix": "a smaller budget", "was": "", "now": ""}
    return {"cause": cause, "start": start, "stop": stop, "detail": detail, "saves": saves, "seconds": seconds} | about


def why(*misses, prompt=3_000):
    known = [one["seconds"] for one in misses if one["seconds"] is not None]
    return {"misses": list(misses), "prompt": prompt, "seconds": sum(known) if known else None}


@pytest.mark.parametrize("n", [1, 2, 200])
def test_all_places_of_one_reason_are_one_row(n):
    scattered = [miss(10 * at, 10 * at + 2) for at in range(n)]
    told = why(*scattered, miss(2_500, 2_533, "moved", "at another place", saves=33))
    first, second = reasons(told)
    assert (first.cause, first.tokens, first.where) == ("moved", 33, "2,500–2,532")
    assert (second.tokens, len(second.spans)) == (2 * n, n)
    assert second.where == ("0–1" if n == 1 else f"0–{10 * (n - 1) + 1:,} ({n} places)")
    for shown in (why_html(told), why_text(told)):
        assert "at another place" in shown
        assert "33 tokens" in shown
    assert len(why_data(told)["rows"]) == 2


@pytest.mark.parametrize(
    ("each", "saves"),
    [((None, None), "6 tokens"), ((0.5, 0.25), "750 ms"), ((-0.5, -0.5), "nothing (1.00 s more)")],
)
def test_what_a_cure_saves_is_added_up_in_one_unit(each, saves):
    told = why(*(miss(10 * at, 10 * at + 3, "evicted", saves=3, seconds=took) for at, took in enumerate(each)))
    (row,) = why_data(told)["rows"]
    assert row[3] == saves


def step(strategy, verdict):
    about = {"budget": 0.1, "above": 0, "n": 4, "bound": 0.1, "kl": 0.01, "kl_max": 0.02}
    return about | {"strategy": strategy, "verdict": verdict, "compute_share": 0.2, "ttft_ratio": 2.0}


@pytest.mark.parametrize("untested", [0, 1, 18])
def test_a_certificate_shows_its_choice_and_folds_what_was_not_tested(untested):
    rows = [
        step("epic", "refused"),
        step("blend", "certified"),
        *(step(f"x{n}", "not tested") for n in range(untested)),
    ]
    about = {"model": "tiny", "dtype": "torch.float32", "sink": "auto", "n": 4, "needed": 3, "allowed": 0}
    limits = {"max_kl": 0.1, "rate": 0.5, "alpha": 0.1, "floor": None, "notes": []}
    html = certificate_html(about | limits | {"rows": rows, "chosen": "blend", "why": "blend it is"})
    assert "<b>blend</b>" in html
    assert "<b>epic</b>" not in html
    seen, _, folded = html.partition("<details>")
    assert "x0" not in seen
    assert folded.count(">x") == untested
    assert ("not tested, for a safer one" in html) == bool(untested)


@pytest.mark.parametrize("failed", [(), (2,), (1, 2)])
def test_failed_checks_come_first(failed):
    rows = [{"check": f"c{n}", "error": 0.0, "limit": 1e-4, "ok": n not in failed, "note": ""} for n in range(3)]
    html = report_html({"strategy": "epic", "model": "tiny", "rows": rows})
    order = [int(n) for n in re.findall(r">(?:<b>)?c(\d)<", html)]
    assert order == [*failed, *(n for n in range(3) if n not in failed)]
    assert html.count("<b>NO</b>") == len(failed)
    assert "0.0e+00" not in html


@pytest.mark.parametrize(
    ("column", "shown"),
    [("bytes", "5.80 GB"), ("state_bytes", "5.80 GB"), ("limit", "5.80 GB"), ("tokens", "5800000000")],
)
def test_sizes_in_frames_are_read_and_stay_numbers(column, shown):
    frame = Frame({"bytes": [1], column: [5_800_000_000]})
    assert f">{shown}<" in frame._repr_html_()
    assert frame[column][0] == 5_800_000_000
    missing = Frame({"bytes": pd.Series([float("nan")])})._repr_html_()
    assert ">–<" in missing


@pytest.mark.parametrize(("columns", "kind"), [(2, "nbkv-pairs"), (3, "nbkv-fits"), (9, "nbkv-fits")])
def test_names_with_their_values_stay_a_table(columns, kind):
    assert f'class="{kind}"' in table_html([f"c{n}" for n in range(columns)], [["x"] * columns])


@pytest.mark.parametrize("none", ["", "–"])
def test_what_an_emphasised_row_has_no_value_for_is_left_out_of_a_list_too(none):
    html = table_html(["a", "b", "c"], [emphasised(["x", none, "y"])])
    assert "<b>x</b>" in html
    assert re.search(rf'class="nbkv-none"[^>]*>{none}</td>', html)
