"""The study of real models, run on the bundled reader: what it measures, that it goes on where it was, its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nbkv
from nbkv.families.evict.base import Evict
from nbkv.registry import strategies as registry
from nbkv.studies.answers import Cell, measure
from nbkv.studies.real_text import page as real_text_page
from nbkv.studies.real_text import table as real_text
from nbkv.studies.real_text.measurements import Table, read
from nbkv.studies.real_text.table import SINKS, TableFile, fill, missing, questions, rows
from nbkv.tasks import ledger, report
from nbkv.tasks.metrics import METRICS

ROWS = ["cacheblend(budget=0)", "epic(budget=0.3)", "prophet(budget=1.0)", "cachecraft(budget=0.3)"]


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny", strategy="full") as opened:
        yield opened


@pytest.fixture(scope="module")
def item():
    return next(one for one in ledger(seed=3, n=8, chunks=6, distance=2) if one.kind == "carried")


@pytest.fixture(scope="module")
def found(session, item, random_logits):
    return measure(session, item, ["bos", "auto"], lambda _: [*ROWS, random_logits])


def cell(found, name):
    return Cell(*found["cells"][name])


def test_figures(found, item):
    assert set(found["cells"]) == {f"{sink} {name}" for sink in ("bos", "auto") for name in [*ROWS, "broken"]}
    assert found["kind"] == item.kind
    assert found["truth"] == 1.0
    assert found["floor"] < 1e-6


def test_full_budget_is_full_and_naive_is_not(found):
    every, naive = cell(found, "bos prophet(budget=1.0)"), cell(found, "bos cacheblend(budget=0)")
    assert every.kl < 1e-6
    assert every.top1 == every.f1 == 1.0
    assert naive.kl > 1e-3
    assert naive.share < cell(found, "bos epic(budget=0.3)").share < every.share


def test_random_logits_are_seen(found):
    broken = cell(found, "bos broken")
    assert broken.kl_max > 1
    assert broken.f1 < 1


EVICTIONS = [name for name in registry.names() if issubclass(registry.get(name), Evict)]


@pytest.mark.parametrize("name", EVICTIONS)
def test_what_has_let_go_of_tokens_gives_its_own_answer_too(session, name):
    """Its cache cannot be cut back to where its answer leaves full's: it answers by another pass."""
    item = report(seed=3, n=1, chunks=3)[0]  # a long answer
    asked = item.prompt([session.chunk(text, sink="bos") for text in item.chunks], chat=session.has_template)
    spec = f"{name}(keep=3, window=2)" if name == "lazyeviction" else f"{name}(keep=3)"
    figures = measure(session, item, ["bos"], lambda _: [spec])
    full = session.generate(asked, strategy="full", max_new_tokens=32, keep=False)
    own = session.generate(asked, strategy=spec, max_new_tokens=len(full.token_ids), keep=False)
    assert own.token_ids != full.token_ids, "the case that this is about"
    assert cell(figures, f"bos {spec}").f1 == pytest.approx(METRICS["f1"](own.text, [full.text]), rel=1e-2)
    assert cell(figures, f"bos {spec}").kl > 0


def test_learning_methods_met_the_chunks_elsewhere(session, item):
    other = measure(session, item, ["bos"], lambda _: ["cachecraft(budget=0.3)"])
    again = measure(session, item, ["bos"], lambda _: ["cacheblend(budget=0)", "cachecraft(budget=0.3)"])
    name = "bos cachecraft(budget=0.3)"
    assert other["cells"][name] == again["cells"][name]  # nothing of what ran before it helped it
    assert not session.chunks


def test_a_run_goes_on_where_it_was(session, item, tmp_path, monkeypatch):
    monkeypatch.setattr(real_text, "SINKS", ("bos",))
    monkeypatch.setattr(real_text, "_OTHER_SINKS", {})
    record = TableFile(tmp_path / "real" / "a.json", {"model": "tiny", "data": "ledger"})
    items = [item, *ledger(seed=4, n=1, chunks=3)]

    running = fill(session, record, items, ["epic"])
    assert next(running) == 0
    running.close()
    first = record.questions()
    assert list(fill(session, record, items, ["epic"])) == [0, 1]
    assert record.questions()[0] == first[0]
    assert list(fill(session, record, items, ["epic", "prophet"])) == [0, 1]
    both = record.questions()
    assert len(both) == 2
    assert first[0]["cells"].items() <= both[0]["cells"].items()
    assert missing(both[1], "bos", ["epic", "prophet"]) == []
    assert [row for row in missing(both[1], "bos", ["influence"]) if not callable(row)] == rows("bos", ["influence"])[
        1:6
    ]


def test_page(session, item, tmp_path, monkeypatch):
    record = TableFile(tmp_path / "tables" / "real" / "a.json", {"model": "tiny", "data": "ledger"})
    monkeypatch.setattr(real_text, "_OTHER_SINKS", {})
    monkeypatch.setattr(real_text, "SINKS", ("none",))
    list(fill(session, record, [item], ["epic", "prophet"]))
    real_text_page.write_page(tmp_path)
    page = (tmp_path / "real-text.md").read_text("utf-8")

    assert "| none | oracle(support) |" in page
    assert "| none | epic |" in page
    assert f"1 {item.kind}" in page
    assert "{" not in page
    assert "Not finished" not in page


def test_the_page_says_what_is_missing():
    docs = Path(__file__).parents[2] / "docs"
    table = read(docs / "tables" / "real")[0]
    few = Table(table.data | {"planned": len(table.questions) + 1}, {})
    assert f"**Not finished**: {len(table.questions)} of {len(table.questions) + 1}" in real_text_page.page([few])


def test_committed_tables_are_those_of_the_page():
    """What stands in docs was made from the JSON beside it."""
    docs = Path(__file__).parents[2] / "docs"
    tables = read(docs / "tables" / "real")
    assert (docs / "real-text.md").read_text("utf-8") == real_text_page.page(tables)
    for path in (docs / "tables" / "real").glob("*.json"):
        assert tuple(json.loads(path.read_text("utf-8"))["figures"]) == Cell.names()


def test_the_table_has_every_method_and_the_dumb_rivals():
    for sink in SINKS:
        names = [row if isinstance(row, str) else getattr(row, "spec", "oracle") for row in rows(sink)]
        assert {"oracle", "random(budget=0.15)", "lexical(budget=0.15)", "cacheblend(budget=0)"} <= set(names)
        assert len(names) == len(set(names))


def test_questions_of_a_longer_list_begin_alike():
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not (folder / "musique_train.json").is_file():
        pytest.skip("no musique_train.json in shared/data beside the repository")
    assert questions("musique", 3, folder) == questions("musique", 6, folder)[:3]
