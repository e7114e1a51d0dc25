"""What was measured elsewhere and is kept: the tables on pretrained models and real text, as the leaderboard's rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from nbkv.studies.leaderboard.contest import COLUMNS
from nbkv.studies.real_text.measurements import Row, Table, read

_AS_HERE = {"share": "share", "kl": "kl", "top1": "top1", "right": "truth"}


def committed(folder: Path) -> pd.DataFrame:
    """Return one row a question and strategy (``contest.COLUMNS``) of the tables in ``folder``; none where it is not.

    ``right`` is F1 against the expected answer. A question has the rows that were measured of it so far. Oracles, who
    know the answer's place, are left out. Full itself has the answer's own score, at share 1.
    """
    found = []
    for table in read(folder):
        model, data = str(table.data["model"]), str(table.data["data"])
        for sink, strategy in table.rows:
            if strategy.startswith("oracle"):
                continue
            asked = [f"{data} {each['name']}" for each, has in _each(table, (sink, strategy)) if has]
            columns = [table.figures((sink, strategy), figure) for figure in _AS_HERE.values()]
            about = (model, data, sink, strategy, "questions")
            found += [(*about, name, *map(float, row)) for name, *row in zip(asked, *columns, strict=True)]
        for sink in dict.fromkeys(sink for sink, _ in table.rows):
            about = (model, data, sink, "full", "questions")
            scores = [(f"{data} {each['name']}", float(each["truth"])) for each in table.questions]
            found += [(*about, name, 1.0, 0.0, 1.0, truth) for name, truth in scores]
    return pd.DataFrame(found, columns=[*COLUMNS])


def _each(table: Table, row: Row) -> Iterator[tuple[dict[str, Any], bool]]:
    """Yield each question, and whether it has ``row``."""
    return zip(table.questions, map(bool, table.asked(row)), strict=True)
