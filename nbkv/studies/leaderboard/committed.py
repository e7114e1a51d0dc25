"""What was measured elsewhere and is kept: the tables on pretrained models and real text, as the leaderboard's rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nbkv.studies.leaderboard.contest import COLUMNS
from nbkv.studies.real_text.page import read

_AS_HERE = {"share": "share", "kl": "kl", "top1": "top1", "right": "truth"}


def committed(folder: Path) -> pd.DataFrame:
    """Return one row a question and strategy (``contest.COLUMNS``) of the tables in ``folder``; none where it is not.

    ``right`` is F1 against the expected answer. Rows that some question of a table lacks are left out, and so are
    oracles, who know the answer's place. Full itself has the answer's own score, at share 1.
    """
    found = []
    for table in read(folder):
        model, data = str(table.data["model"]), str(table.data["data"])
        names = [str(each["name"]) for each in table.questions]
        for sink, strategy in table.cells:
            if strategy.startswith("oracle"):
                continue
            columns = [table.figures((sink, strategy), figure) for figure in _AS_HERE.values()]
            about = (model, data, sink, strategy, "questions")
            found += [(*about, name, *map(float, row)) for name, *row in zip(names, *columns, strict=True)]
        for sink in dict.fromkeys(sink for sink, _ in table.cells):
            about = (model, data, sink, "full", "questions")
            found += [(*about, str(q["name"]), 1.0, 0.0, 1.0, float(q["truth"])) for q in table.questions]
    return pd.DataFrame(found, columns=[*COLUMNS])
