"""What the tables on real text come to, in sentences and tables of Markdown: who is nearest, and how ``blend`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from nbkv.show.units import plural
from nbkv.studies.real_text.equal_share import ENOUGH, Ratio
from nbkv.studies.real_text.measurements import Method, Table
from nbkv.studies.real_text.verdicts import (
    AIM,
    BUDGET,
    DEFAULT_SINK,
    RIVAL,
    SHARES,
    Verdict,
    alias,
    at_equal_share,
    at_one_budget,
    failures,
    standing,
)

_MANY = 4  # methods that are named; of more it is said how many


def nearest(tables: Sequence[Table]) -> Iterator[str]:
    """Yield who is nearest to full at equal share, and at one budget, table by table and sink by sink."""
    yield from ("", "## Who is nearest to full at equal share", "")
    yield "By mean KL over the *n* questions that all compared methods have, linear between the two budgets around it."
    yield "*Not told apart*: the interval of the nearest one's ratio to them reaches 1. The nearest was picked on the"
    yield f"very questions that it is compared on. Fewer than {ENOUGH} questions decide nothing: no one is named then."
    yield ""
    yield from head("model, data", "sink", "share", "n", "nearest", "its KL", "not told apart", "farther")
    for table in tables:
        for sink in [*_sinks(table), None]:
            for share in SHARES:
                if found := at_equal_share(table, share, sink):
                    yield f"| {table.title} | {sink or 'any'} | {share} | {_verdict(found, _told(sink))} |"
    yield from (
        "",
        f"At budget {BUDGET}, on more questions: equally many rows run again, but not equally much computed (in",
    )
    yield "brackets). Who is nearer and computes no more has won at equal share too; who computes more has not."
    yield ""
    yield from head("model, data", "sink", "n", "nearest", "its KL", "not told apart", "farther")
    for table in tables:
        for sink in _sinks(table):
            if found := at_one_budget(table, sink):
                told = partial(_with_share, found)
                yield f"| {table.title} | {sink} | {_verdict(found, told)} |"


def _sinks(table: Table) -> list[str]:
    return list(dict.fromkeys(sink for sink, _ in table.rows))


def _told(sink: str | None) -> Callable[[Method], str]:
    return (lambda method: f"{method[1]} ({method[0]})") if sink is None else (lambda method: method[1])


def _with_share(found: Verdict, method: Method) -> str:
    return f"{method[1]} ({found.shares[method]:.0%})" if method in found.shares else method[1]


def _verdict(found: Verdict, told: Callable[[Method], str]) -> str:
    def named(methods: Sequence[Method]) -> str:
        names = [told(method) for method in methods]
        return ", ".join(names if len(names) <= _MANY else [*names[:_MANY], f"{len(names) - _MANY} more"])

    left = f"; not compared: {named(found.alone)}" if found.alone else ""
    if not found.decides:
        return f"{found.n} | too few questions ({named([found.nearest])}) | {found.kl:.4f} | all | {left[2:]}"
    return (
        f"{found.n} | **{named([found.nearest])}** | {found.kl:.4f} | {named(found.tied)} | {named(found.worse)}{left}"
    )


def blend(tables: Sequence[Table]) -> Iterator[str]:
    """Yield how the alias was chosen, whether it should stay, and where it fails."""
    name = alias()
    own = (DEFAULT_SINK, name)
    yield from ("", f"## `blend` names `{name}`: how it was chosen, and where it fails", "")
    yield f"`{name}` was developed on HotpotQA with one model and judged once on the rest, before these tables"
    yield "([own-method.md](own-method.md)). It keeps the name as long as no method on chunks encoded behind"
    yield f"`{DEFAULT_SINK}`, which `auto` takes, is nearer to full over all tables at equal share by more than chance."
    others = [(method, found) for (sink, method), found in standing(tables, own) if sink == DEFAULT_SINK]
    ahead = [(method, found) for method, found in others if found.nearer and method != name]
    if ahead:
        yield f"**In the tables as they are {_named_ratios(ahead)}: the name would have to move.**"
    elif close := [(method, found) for method, found in others if not found.farther and method != name]:
        yield f"In the tables as they are nobody is, but it is not told apart from {_named_ratios(close)}"
        yield f"(KL over that of `{name}`)."
    else:
        yield "In the tables as they are nobody is."
    yield ""
    places = [found for table in tables for share in SHARES if (found := at_equal_share(table, share, DEFAULT_SINK))]
    decided = [found for found in places if found.decides]
    first, tied, farther = (
        sum(test(found) for found in decided)
        for test in (lambda f: f.nearest == own, lambda f: own in f.tied, lambda f: own in f.worse)
    )
    yield f"Behind `{DEFAULT_SINK}`, of {plural(len(places), 'comparison')} of all methods at a share, by table,"
    yield f"{len(decided)} have {ENOUGH} questions or more: `{name}` is nearest in {first} of them, not told apart from"
    yield f"the nearest in {tied}, and farther in {farther}."
    yield ""
    yield f"The aim is a KL of at most {AIM} times that of `{RIVAL[1]}` on chunks encoded behind `{RIVAL[0]}`, at a"
    yield f"share of {SHARES[-1]} or less:"
    yield ""
    yield from head("model, data", *(f"share {share}" for share in SHARES))
    for table in tables:
        found_at = [table.against(own, RIVAL, share) for share in SHARES]
        yield f"| {table.title} | {' | '.join(_aimed(found) for found in found_at)} |"
    yield ""
    every = [failure for table in tables for failure in failures(table, name)]
    if not every:
        yield f"No comparison with one other method, of {ENOUGH} questions or more, shows it to be farther at equal"
        yield "share, nor not nearer than naive reuse, random rows and the sentences with the question's rare words."
        return
    compared = plural(len(every), "comparison")
    yield f"**It fails** in {compared} with one other, of {ENOUGH} questions or more (KL over its):"
    yield ""
    yield from head("model, data", "sink", f"`{name}`", "ratio")
    for failure in every:
        yield f"| {failure.table} | {failure.sink} | {failure.why} | {ratio_cell(failure.ratio)} |"


def _named_ratios(found: Sequence[tuple[str, Ratio]]) -> str:
    return " and ".join(f"`{method}` ({ratio_cell(each)})" for method, each in found)


def _aimed(found: Ratio | None) -> str:
    if found is None:
        return ""
    if found.n < ENOUGH:
        said = "too few questions"
    elif found.high <= AIM:
        said = "met"
    else:
        said = "missed" if found.low > AIM else f"{'met' if found.ratio <= AIM else 'missed'} on the mean, not decided"
    return f"{ratio_cell(found)}: {said}"


def ratio_cell(found: Ratio | None) -> str:
    """Return a ratio with its interval, the questions won and their number."""
    if found is None:
        return ""
    between = "" if np.isnan(found.low) else f" ({found.low:.2f} to {found.high:.2f})"
    return f"{found.ratio:.2f}{between}, {found.wins:.0%}, n {found.n}"


def head(*columns: str) -> Iterator[str]:
    """Yield the first lines of a table."""
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
