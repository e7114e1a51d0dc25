from __future__ import annotations

import numpy as np
import pytest

from nbkv.result import Comparison, Compute, Result, Timing

ROW = {"strategy": "full", "ttft_s": 0.2, "speedup": 1.0, "notes": "a, b", "kl": None}


def result(lineage):
    return Result(
        text="an answer",
        token_ids=(7, 8),
        prompt_ids=(1,),
        finish_reason="stop",
        strategy="full",
        model="m",
        fingerprint="f",
        timing=Timing(),
        provenance=np.zeros(1, dtype=np.uint8),
        kept=np.ones(1, dtype=bool),
        compute=Compute(),
        lineage=lineage,
    )


def comparison(lineages):
    rows = tuple(ROW | {"strategy": name} for name in ("full", "prefix", "blend"))
    return Comparison(model="m", prompt_tokens=3, repeat=1, rows=rows, results=tuple(result(each) for each in lineages))


@pytest.mark.parametrize("lineages", [["exact", "exact", "approx:blend"], ["exact"], []])
def test_rows_say_whether_they_are_exact_where_a_result_tells(lineages):
    rows = comparison(lineages).to_dict()["rows"]

    assert [row.get("exact") for row in rows] == [
        *(each == "exact" for each in lineages),
        *[None] * (3 - len(lineages)),
    ]
    assert [row["strategy"] for row in rows] == ["full", "prefix", "blend"]


def test_the_table_is_a_frame_and_a_file(tmp_path):
    table, path = comparison(["exact"]), tmp_path / "table.csv"

    assert table.to_frame()["strategy"].tolist() == ["full", "prefix", "blend"]
    assert table.to_csv(str(path)) is None
    assert path.read_text() == table.to_csv()
    assert path.read_text().splitlines()[1] == 'full,0.2,1.0,"a, b",'
