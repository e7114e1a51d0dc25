"""What the tables on real text decide: who is nearest to full at equal share, and where the alias ``blend`` is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbkv.strategy import parse
from nbkv.studies.real_text.equal_share import ENOUGH, Ratio, at_share, mean_ratio, ratio
from nbkv.studies.real_text.measurements import Method, Row, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RIVAL = ("none", "prophet")
"""The published method that others are held against: ProphetKV's selection, on chunks encoded alone."""
SHARES = (0.15, 0.2, 0.25)
"""Compute shares at which methods are compared."""
BUDGET = 0.15
"""The budget that every method is measured at first."""
DEFAULT_SINK = "context"
"""What chunks are encoded behind on these models where nobody says otherwise (``auto``)."""
NAIVE = "cacheblend(budget=0)"
DUMB = (NAIVE, f"random(budget={BUDGET})", f"lexical(budget={BUDGET})")
AIM = 0.7
"""What blend's error should be of the rival's, at most."""


def alias() -> str:
    """Return the method that ``blend`` names."""
    return parse("blend").name


@dataclass(frozen=True)
class Verdict:
    """Who is nearest to full on one table, by mean KL over ``n`` questions that all compared methods have.

    ``ratios`` are the nearest one's error over each other's, the nearest rival first; ``shares`` what each computes.
    ``alone`` are methods measured on fewer than half as many questions, which were not compared.
    """

    n: int
    nearest: Method
    kl: float
    ratios: dict[Method, Ratio]
    shares: dict[Method, float]
    alone: tuple[Method, ...]

    @property
    def decides(self) -> bool:
        """Return whether there are enough questions to say anything."""
        return self.n >= ENOUGH

    @property
    def tied(self) -> list[Method]:
        """Return the methods that it cannot be told apart from."""
        return [name for name, found in self.ratios.items() if not found.nearer]

    @property
    def worse(self) -> list[Method]:
        """Return the methods that are farther from full, by more than chance."""
        return [name for name, found in self.ratios.items() if found.nearer]


def at_equal_share(table: Table, share: float, sink: str | None = None) -> Verdict | None:
    """Return who is nearest at ``share`` behind ``sink`` (None: behind any); None where no two can be compared."""
    around = {name: table.around(name, share)[:1] for name in table.methods() if sink in {None, name[0]}}
    rows = {name: pairs[0] for name, pairs in around.items() if pairs}
    among = _common(table, rows)
    able = {name: pair for name, pair in rows.items() if _able(table, pair, rows)} if among.any() else {}
    errors = {name: at_share(table.points(pair, among), share) for name, pair in able.items()}
    known = {name: each for name, each in errors.items() if each is not None}
    return _verdict(known, dict.fromkeys(known, share), tuple(name for name in rows if name not in known))


def at_one_budget(table: Table, sink: str) -> Verdict | None:
    """Return who is nearest at ``BUDGET`` behind ``sink``: equally many rows run again, other shares computed."""
    ending = f"(budget={BUDGET})"
    rows = {
        (row[0], row[1].removesuffix(ending)): (row,)
        for row in table.rows
        if row[0] == sink and row[1].endswith(ending)
    }
    among = _common(table, rows)
    known = {name: table.figures(each[0], "kl", among) for name, each in rows.items() if _able(table, each, rows)}
    shares = {name: table.share(rows[name][0], among) for name in known} if among.any() else {}
    return _verdict(known, shares, tuple(name for name in rows if name not in known))


def _able(table: Table, own: tuple[Row, ...], rows: Mapping[Method, tuple[Row, ...]]) -> bool:
    """Whether a method has half as many questions as the one that has most."""
    return 2 * table.n(*own) >= max(table.n(*each) for each in rows.values())


def _common(table: Table, rows: Mapping[Method, tuple[Row, ...]]) -> NDArray[np.bool_]:
    """Return which questions all methods have that have enough."""
    return table.asked(*(row for own in rows.values() if _able(table, own, rows) for row in own))


def _verdict(
    errors: dict[Method, NDArray[np.float64]], shares: dict[Method, float], alone: tuple[Method, ...]
) -> Verdict | None:
    """Return who has the smallest mean of ``errors``; None where there are not two to compare."""
    if len(errors) < 2 or not min(map(len, errors.values())):  # noqa: PLR2004
        return None
    best, *others = sorted(errors, key=lambda name: float(errors[name].mean()))
    ratios = {name: ratio(errors[best], errors[name]) for name in others}
    return Verdict(len(errors[best]), best, float(errors[best].mean()), ratios, shares, alone)


def over_all(tables: Sequence[Table], method: Method, rival: Method) -> Ratio | None:
    """Return the geometric mean of a method's ratios to a rival over ``tables`` and ``SHARES``; None without any.

    At those shares at which both were measured in every table.
    """
    found = [[table.paired(method, rival, share) for share in SHARES] for table in tables]
    whole = [at for at in range(len(SHARES)) if all(row[at] is not None for row in found)]
    return mean_ratio([[pair for at in whole if (pair := row[at]) is not None] for row in found]) if whole else None


def standing(tables: Sequence[Table], rival: Method = RIVAL) -> list[tuple[Method, Ratio]]:
    """Return each method and its mean ratio to the rival, best first, of those that every table can compare."""
    methods = dict.fromkeys(method for table in tables for method in table.methods())
    ranked = [(method, found) for method in methods if (found := over_all(tables, method, rival)) is not None]
    return sorted(ranked, key=lambda each: each[1].ratio)


@dataclass(frozen=True)
class Failure:
    """Where ``blend`` is not what it is named for: on ``table`` behind ``sink``, for the reason ``why``."""

    table: str
    sink: str
    why: str
    ratio: Ratio


def failures(table: Table, name: str) -> Iterator[Failure]:
    """Yield what beats the method ``name`` on ``table``, or is not beaten by it although it looks at no model."""
    for sink in dict.fromkeys(sink for sink, _ in table.rows):
        for method in table.methods():
            if method[0] == sink and method[1] != name:
                yield from _nearer(table, (sink, name), method)
        own = (sink, f"{name}(budget={BUDGET})")
        for strategy in DUMB if table.n(own) else ():
            found = table.row_against(own, (sink, strategy))
            if found is not None and found.n >= ENOUGH and not found.nearer:
                how = "is farther than" if found.farther else "is not shown to be nearer than"
                yield Failure(table.title, sink, f"{how} `{strategy}`, itself at budget {BUDGET}", found)


def _nearer(table: Table, own: Method, method: Method) -> Iterator[Failure]:
    """Yield the shares at which ``method`` is nearer to full than ``own``; at one budget, where it computes no more."""
    for share in SHARES:
        found = table.against(own, method, share)
        if found is not None and found.farther:
            yield Failure(table.title, own[0], f"is farther than `{method[1]}` at share {share}", found)
    mine, other = ((own[0], f"{each}(budget={BUDGET})") for each in (own[1], method[1]))
    among = table.asked(mine, other)
    if among.sum() < ENOUGH or table.share(other, among) > table.share(mine, among):
        return
    found = table.row_against(mine, other)
    if found is not None and found.farther:
        why = f"is farther than `{method[1]}` at budget {BUDGET}, which computes no more"
        yield Failure(table.title, own[0], why, found)


def first_rows(table: Table) -> list[Row]:
    """Return the rows that are measured first: naive reuse, methods at ``BUDGET``, and those that look at no model."""
    return [row for row in table.rows if row[1].endswith(("=0)", f"={BUDGET})", "(support)"))]
