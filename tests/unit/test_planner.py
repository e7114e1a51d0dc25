"""The restore planner: every form measured, the fastest that saves enough is picked, what saves nothing refused."""

from __future__ import annotations

import json

import pytest

import nbkv
from nbkv import cli
from nbkv.errors import BadOption
from nbkv.families.residual import planner
from nbkv.families.residual.bandwidth import Bandwidths
from nbkv.families.residual.forms import all_kv_bytes, parse
from nbkv.families.residual.planner import FormCost, eligible, pick

FEW = {"num_key_value_heads": 1}  # a layer's input is twice its K and V


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Rates are measured on megabytes, and a disk may be slow."""
    given = Bandwidths(memory=1e10, host=5e9, disk=1e9, gemm=1e11, rows=64)
    monkeypatch.setattr(planner, "rates", lambda adapter, rows: given)


def way(form, seconds, device, *, exact=True):
    return FormCost(form=form, exact=exact, token_bytes=device, device_bytes=device, seconds=seconds)


def test_the_fastest_that_leaves_half_of_the_memory_free_is_picked():
    ways = [way("ids", 3.0, 4), way("layers", 1.0, 504), way("host", 0.1, 1004), way("int8", 0.5, 250, exact=False)]
    assert pick(ways, 1000) == "layers"
    assert pick([*ways, way("first(2)", 0.9, 505)], 1000) == "layers"
    assert [
        each.form for each in eligible([*ways, FormCost(form="x", exact=True, token_bytes=1, device_bytes=1)], 1000)
    ] == [
        "ids",
        "layers",
    ]


@pytest.mark.parametrize("changes", [{}, FEW], ids=["mha", "gqa"])
def test_every_form_is_a_row(make_model, tokenizer, changes):
    options = {"num_key_value_heads": 4, "num_hidden_layers": 6} | changes
    with nbkv.load(make_model("qwen3", **options), tokenizer=tokenizer, strategy="full") as session:
        plan = session.plan(96)
        adapter = session.adapter
        ways = {each.form: each for each in plan.ways}
        assert {"ids", "start(0)", "every(2)", "layers", "int8", "int4", "latent", "host", "first(3)"} <= ways.keys()
        assert plan.kv_bytes == all_kv_bytes(adapter)
        assert ways[plan.pick] in eligible(plan.ways, plan.kv_bytes)
        assert len(ways) == len(plan.ways)
        for each in plan.ways:
            assert each.token_bytes == parse(each.form, 6).token_bytes(adapter)
            assert (each.seconds is None) == bool(each.refused)
    assert bool(ways["layers"].refused) == bool(changes)
    assert "more than the" in ways["layers"].refused or not changes
    text, html = repr(plan), plan._repr_html_()
    assert all(each.form in text and each.form in html for each in plan.ways)
    assert "picked" in text
    assert "<script" not in html
    assert json.loads(json.dumps(plan.to_dict()))["pick"] == plan.pick


def test_mixtures_let_loading_and_projecting_end_together():
    class Adapter:
        n_layers = 8

    ways = [way("layers", 3.0, 500), way("host", 1.0, 4)]
    assert planner._mixed(Adapter, ways) == ["first(4)", "mix(2)"]
    form = parse("mix(2)", 8)
    assert (form.sources.count("input"), form.sources.count("host")) == (2, 6)
    assert form.sources[3] == form.sources[7] == "input"
    assert planner._mixed(Adapter, [way("layers", 3.0, 500), way("host", 1e-9, 4)]) == ["first(4)"]


def test_numbers_of_tokens_that_do_not_fit_are_one_line(session_of):
    session = session_of("llama")
    with pytest.raises(BadOption, match="tokens=512 is not accepted: tokens is a whole number between 1 and 511"):
        session.plan(512)


def test_the_command_line_prints_it(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(planner, "_pure", lambda adapter: ["ids", "layers", "host"])
    path = tmp_path / "plan.json"
    assert cli.main(["doctor", "--plan", "--tokens", "16", "--json", str(path)]) == 0
    said = capsys.readouterr().out
    assert "picked" in said
    assert json.loads(path.read_text())["pick"] in said
    assert cli.main(["doctor", "--plan", "no-such-model"]) == 2


def test_the_doctor_tells_what_it_finds(capsys):
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("torch", "transformers", "CPU", "memory", "fused attention", "models proven", "tiny"):
        assert word in said


def test_a_problem_is_told_and_is_a_failure(monkeypatch, capsys):
    monkeypatch.setattr("nbkv.doctor._NEEDED", {"torch": "99.0"})
    assert cli.main(["doctor"]) == 1
    assert "nbkv needs at least 99.0" in capsys.readouterr().out
