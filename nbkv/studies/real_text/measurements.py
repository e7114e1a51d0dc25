"""What was measured of one model on one data set: rows that some questions have, compared over those that have both.

A table grows question by question and row by row, so rows have different numbers of questions. No figure of one row is
held against that of another unless both are of the same questions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbkv.studies.real_text.equal_share import Pair, Point, Ratio, at_share, ratio
from nbkv.studies.real_text.speed import read_speeds

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODELS = {"smollm2": 100, "qwen2.5-coder-0.5b": 50}
"""Which models are measured, and on how many questions of each data set."""
Row = tuple[str, str]
"""What a chunk was encoded behind, and the strategy."""
Method = tuple[str, str]
"""The same, the strategy without its options."""


@dataclass(frozen=True, eq=False)
class Table:
    """What was measured of one model on one data set (a file that ``real_text.table.TableFile`` wrote)."""

    data: dict[str, Any]
    speeds: dict[str, float]

    @property
    def title(self) -> str:
        """Return model and data set."""
        return f"{self.data['model']}, {self.data['data']}"

    @property
    def questions(self) -> list[dict[str, Any]]:
        """Return the questions."""
        found: list[dict[str, Any]] = self.data["questions"]
        return found

    @cached_property
    def rows(self) -> list[Row]:
        """Return sink and strategy of each row that some question has."""
        names = dict.fromkeys(name for each in self.questions for name in each["cells"])
        return [(sink, strategy) for sink, _, strategy in (name.partition(" ") for name in names)]

    def asked(self, *rows: Row) -> NDArray[np.bool_]:
        """Return which questions ``[n]`` have all of ``rows``."""
        names = [" ".join(row) for row in rows]
        return np.array([all(name in each["cells"] for name in names) for each in self.questions], dtype=bool)

    def n(self, *rows: Row) -> int:
        """Return how many questions have all of ``rows``."""
        return int(self.asked(*rows).sum())

    def figures(self, row: Row, figure: str, among: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        """Return one figure ``[n]`` of ``row``, of each question that has it, or of those ``among`` all."""
        at, name = self.data["figures"].index(figure), " ".join(row)
        chosen = self.asked(row) if among is None else among
        found = [each["cells"][name][at] for each, wanted in zip(self.questions, chosen, strict=True) if wanted]
        return np.array(found, dtype=np.float64)

    def share(self, row: Row, among: NDArray[np.bool_] | None = None) -> float:
        """Return the mean compute share of ``row``."""
        return float(self.figures(row, "share", among).mean())

    def curve(self, method: Method) -> list[Row]:
        """Return a method's rows with a budget, from the smallest share to the largest."""
        sink, name = method
        own = [row for row in self.rows if row[0] == sink and row[1].startswith(f"{name}(budget=")]
        return sorted((row for row in own if not row[1].endswith("=0)")), key=self.share)

    def methods(self) -> list[Method]:
        """Return sink and name of each method that has several budgets."""
        names = dict.fromkeys((sink, strategy.partition("(")[0]) for sink, strategy in self.rows)
        return [name for name in names if len(self.curve(name)) > 1]

    def points(self, rows: tuple[Row, ...], among: NDArray[np.bool_]) -> list[Point]:
        """Return ``rows`` as points, of the questions ``among`` all."""
        return [Point(self.share(row, among), self.figures(row, "kl", among)) for row in rows]

    def around(self, method: Method, share: float) -> list[tuple[Row, Row]]:
        """Return a method's pairs of neighbouring rows on both sides of ``share``, those of most questions first."""
        pairs = [pair for pair in pairwise(self.curve(method)) if self.n(*pair)]
        here = [pair for pair in pairs if at_share(self.points(pair, self.asked(*pair)), share) is not None]
        return sorted(here, key=lambda pair: -self.n(*pair))

    def paired(self, method: Method, rival: Method, share: float) -> Pair | None:
        """Return both errors at an equal share, of the questions that have the rows of both around it.

        None where there is no such question, or one of the two was not measured on both sides of it.
        """
        for mine in self.around(method, share):
            for other in self.around(rival, share):
                among = self.asked(*mine, *other)
                if not among.any():
                    continue
                errors = [at_share(self.points(rows, among), share) for rows in (mine, other)]
                if errors[0] is not None and errors[1] is not None:
                    return errors[0], errors[1]
        return None

    def against(self, method: Method, rival: Method, share: float) -> Ratio | None:
        """Return how a method compares to another at an equal share; None where they cannot be compared."""
        errors = self.paired(method, rival, share)
        return None if errors is None else ratio(*errors)

    def row_against(self, row: Row, rival: Row) -> Ratio | None:
        """Return how a row compares to another, whatever each computes, over the questions that have both."""
        among = self.asked(row, rival)
        if not among.any():
            return None
        return ratio(self.figures(row, "kl", among), self.figures(rival, "kl", among))


def read(folder: Path) -> list[Table]:
    """Return the tables in ``folder`` that have a question, by model and data set."""
    found = [
        Table(json.loads(path.read_text("utf-8")), read_speeds(folder / "speed" / path.name))
        for path in sorted(folder.glob("*.json"))
    ]
    return [table for table in found if table.data.get("questions")]
