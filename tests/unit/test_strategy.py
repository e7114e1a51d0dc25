from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

import nbkv
from nbkv.errors import BadOption, UnknownName
from nbkv.registry import strategies as registry
from nbkv.strategy import Strategy, parse, split


@pytest.fixture
def probe():
    """A strategy with options, registered for one test."""

    @dataclass(kw_only=True)
    class Probe(Strategy):
        name: ClassVar[str] = "probe"
        budget: float = 0.15
        layers: tuple = (1,)

        def __post_init__(self):
            if not 0 <= self.budget <= 1:
                message = f"budget={self.budget} is not accepted: budget is a number in [0, 1]"
                raise BadOption(message)

    yield Probe
    registry._found.pop("probe")


def test_names_options_and_the_first_field(probe):
    assert parse("probe").budget == 0.15
    assert parse("probe(budget=0.3)").budget == 0.3
    assert parse("probe(0.3)").budget == 0.3
    assert parse(" probe ( layers=(1, 2) ) ").layers == (1, 2)
    assert parse(probe(budget=1)).budget == 1


def test_spec_reads_back(probe):
    for spec in ("probe", "probe(budget=0.3)", "probe(budget=0.3, layers=(1, 2))"):
        assert parse(spec).spec == spec
        assert parse(parse(spec).spec) == parse(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "probe(budget=2)",
        "probe(colour=1)",
        "probe(0.1, 0.2)",
        "probe(budget=__import__('os'))",
        "probe(",
        "probe(budget=)",
    ],
)
def test_bad_options_are_one_line(probe, spec):
    with pytest.raises((BadOption, UnknownName)) as error:
        parse(spec)

    assert "\n" not in str(error.value)


def test_an_unknown_strategy_gets_a_hint():
    with pytest.raises(UnknownName, match="did you mean 'prefix'") as error:
        parse("prefx")

    assert str(error.value).startswith("unknown strategy")


def test_lists_are_split_outside_brackets():
    assert split("full, prefix(a=(1, 2)),x(0.1)") == ["full", "prefix(a=(1, 2))", "x(0.1)"]
    assert split("full, x(a=1, b=(1, 2)), y(c='z(d=1)', e=[1])") == ["full", "x(a=1, b=(1, 2))", "y(c='z(d=1)', e=[1])"]
    assert split(["full", parse("prefix")])[0] == "full"


def test_a_class_defined_twice_replaces_itself_but_not_anothers():
    for _ in range(2):

        @dataclass(kw_only=True)
        class Twice(Strategy):
            name: ClassVar[str] = "twice"

    assert parse("twice").spec == "twice"
    registry._found.pop("twice")
    with pytest.raises(UnknownName, match="two strategy classes"):

        @dataclass(kw_only=True)
        class Thief(Strategy):
            name: ClassVar[str] = "prefix"


def test_third_parties_register_by_entry_point_and_cannot_take_us_down(monkeypatch, probe):
    from importlib.metadata import EntryPoint

    from nbkv.registry import Registry

    found = [
        EntryPoint("good", "nbkv.strategies.full:Full", "nbkv.strategies"),
        EntryPoint("bad", "no_such_module_here:Thing", "nbkv.strategies"),
    ]
    monkeypatch.setattr("nbkv.registry.entry_points", lambda group: found)
    with pytest.warns(UserWarning, match="'bad' is left out"):
        Registry("nbkv.strategies", "strategy").names()


def test_the_table_lists_the_registry():
    table = nbkv.strategies()

    assert list(table["name"]) == registry.names()
    assert {"full", "prefix"} <= set(table["name"])
    assert table.set_index("name").loc["prefix", "exact"]


def test_blend_stands_for_a_chunk_strategy():
    assert parse("blend").family == "blend"
    assert parse("blend(0.1)") == parse(f"{parse('blend').name}(budget=0.1)")
