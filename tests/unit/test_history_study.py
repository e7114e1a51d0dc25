"""The study of edited histories: what its transcripts say, what counts as computed again, and that it can tell."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

import nbkv
from nbkv.families.blend import base
from nbkv.families.blend.allotment import Allotment
from nbkv.families.blend.layerwise import LayerwisePlacement
from nbkv.studies.history import page, rivals, table
from nbkv.studies.history.templates import NOTES, QWEN, TEMPLATES
from nbkv.studies.history.transcript import CHANGES, STEPS, changed, transcripts


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny", strategy="full") as made:
        yield made


@pytest.fixture(scope="module")
def transcript():
    return transcripts(1)[0]


@pytest.fixture(scope="module")
def stripped(session, transcript):
    return {row["strategy"]: row for row in table.after_change(session, transcript, (NOTES, "thinking"))}


def test_a_transcript_has_twelve_calls_with_thinking_before_each(transcript):
    said = transcript.messages(QWEN.marks, thinking=True)
    without = transcript.messages(QWEN.marks, thinking=False)

    assert [each["role"] for each in said] == ["system", "user", *["assistant", "tool"] * STEPS]
    assert sum("<think>" in each["content"] for each in said) == STEPS
    assert not any("<think>" in each["content"] for each in without)
    assert transcripts(2)[0] == transcripts(2)[0] != transcripts(2)[1]
    with pytest.raises(nbkv.BadOption, match="change='x'"):
        changed(transcript, "x", QWEN.marks, strips=True)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("change", CHANGES)
def test_each_change_is_early_and_what_comes_after_it_stays(session, transcript, name, change):
    template = TEMPLATES[name]
    session.tokenizer.chat_template = template.source
    history = changed(transcript, change, template.marks, strips=template.strips)
    then, now = history.variables

    def text(messages, variables):
        return session.tokenizer.apply_chat_template(messages, tokenize=False, **variables)

    was = text(history.before, then)
    asked = [*history.after, {"role": "assistant", "content": "so"}, {"role": "user", "content": history.question}]
    new = text(asked, now)
    common = next(at for at, (one, other) in enumerate(zip(was, new, strict=False)) if one != other)
    tail = text(history.before[-1:], {})[-40:]

    assert common < 0.6 * len(was)
    assert tail in new
    assert new.rstrip().count(template.marks[1].strip()) == 0 or change != "thinking"


@pytest.mark.parametrize(
    ("prompt", "earlier", "known"),
    [
        (range(20), [range(20)], [True] * 20),
        ([99, *range(10)], [range(10)], [False] + [True] * 10),
        (range(7), [range(7)], [False] * 7),
        ([*range(8), 50, *range(30, 40)], [range(9), range(28, 41)], [True] * 8 + [False] + [True] * 10),
        (range(5), [], [False] * 5),
    ],
)
def test_what_was_computed_before_is_found_at_any_place(prompt, earlier, known):
    assert table.computed_before(list(prompt), [list(each) for each in earlier]).tolist() == known


def test_stripped_thinking_costs_prefix_most_of_the_prompt_and_a_blend_little(stripped):
    assert stripped["full"]["again"] > 0.9
    assert stripped["prefix"]["again"] > 0.5
    assert stripped["blend"]["again"] < 0.05
    assert stripped[page.LESS]["again"] < stripped["blend"]["again"] < stripped[page.MORE]["again"]
    assert stripped[page.NAIVE]["again"] < 0.01
    for row in stripped.values():
        assert row["again"] <= row["share"] + 1e-9 or row["strategy"] == "full"
    assert stripped["prefix"]["kl"] <= max(10 * stripped["prefix"]["floor"], 1e-9)
    assert stripped[page.NAIVE]["kl"] > 1e-6


def test_other_allotments_run_as_many_rows_and_other_ones(session, transcript, stripped):
    ways = [kind.title for kind in rivals.RIVALS]

    assert {stripped[way]["again"] for way in ways} == {stripped["blend"]["again"]}
    assert len({stripped[way]["kl"] for way in [*ways, "blend"]}) > len(ways) - 1
    assert stripped["random"]["share"] < stripped["its score alone"]["share"]  # which looks before it chooses


def test_the_table_tells_where_nothing_comes_first(session, transcript, stripped, monkeypatch):
    monkeypatch.setattr(Allotment, "ahead", lambda self, budget: [])
    (_, row) = table.after_change(session, transcript, (NOTES, "thinking"), ("blend",))

    assert row["kl"] == pytest.approx(stripped["its score alone"]["kl"], rel=1e-6)
    assert row["kl"] != pytest.approx(stripped["blend"]["kl"], rel=1e-3)


@pytest.mark.parametrize("far", [0.5, 2.0, 1.0])
def test_the_page_holds_other_allotments_against_ours(far):
    figures = dict.fromkeys(("kl_max", "top1", "floor", "ttft_s", "total_s", "again", "share"), 0.125)
    specs = ("full", *table.SPECS, *(kind.title for kind in rivals.RIVALS))
    rows = [
        {"template": "qwen", "change": "thinking", "transcript": at, "strategy": spec, **figures}
        | {"kl": 0.25 * (far if spec == "random" else 1)}
        for at in range(3)
        for spec in specs
    ]
    written = page.markdown({"models": {"some": {"command": "c", "regime": "r", "changes": rows, "turns": []}}})
    (line,) = [line for line in written.splitlines() if line.startswith("| random |")]

    assert f"| {0.25 * far:.2g} | {far:.2f} x | {3 * (far > 1)} of 3 | 12.5% |" in line
    assert "`blend` is farthest in transcript 1 of qwen, thinking: 0.25 nats" in written


def test_the_table_reacts_to_what_is_planted_under_it(session, transcript, stripped, monkeypatch):
    def put(self, layer, keys, values, piece):
        self.cache.put(layer, piece.start, keys, values)

    with monkeypatch.context() as planted:
        planted.setattr(LayerwisePlacement, "_put", put)
        rows = table.after_change(session, transcript, (NOTES, "thinking"), ("prefix", page.NAIVE))
        unmoved = {row["strategy"]: row for row in rows}
    assert unmoved[page.NAIVE]["kl"] > 2 * stripped[page.NAIVE]["kl"]
    assert unmoved["prefix"]["kl"] == pytest.approx(stripped["prefix"]["kl"], abs=1e-9)


def test_the_turns_react_to_a_strategy_that_forgets(session, transcript, monkeypatch):
    kept = table.turn_by_turn(session, transcript, NOTES, page.NAIVE)
    monkeypatch.setattr(base, "remembered", lambda *_: ())
    monkeypatch.setattr("nbkv.session.misses.journal.Journal.earlier", lambda *_: [])
    forgotten = table.turn_by_turn(session, transcript, NOTES, page.NAIVE)

    assert kept["again"] < 0.01
    assert forgotten["again"] > 0.5
    assert kept["kl"] < 0.1


def test_a_stopped_measurement_goes_on_and_the_page_says_what_was_found(session, transcript, monkeypatch):
    monkeypatch.setattr(table, "grid", lambda reader: [(NOTES, "thinking"), (NOTES, "edited")])
    asked = []

    def after_change(session, transcript, about, specs):
        asked.append(about[1])
        figures = dict.fromkeys(("kl", "kl_max", "top1", "floor", "ttft_s", "total_s", "again", "share"), 0.125)
        return [{"strategy": spec} | figures for spec in ("full", *specs)]

    monkeypatch.setattr(table, "after_change", after_change)
    monkeypatch.setattr(
        table, "turn_by_turn", lambda *given: after_change(None, None, "  ", ())[0] | {"strategy": given[3]}
    )
    found = {"changes": [], "turns": []}
    steps = table.measure(session, [transcript], found)
    next(steps)
    first = copy.deepcopy(found)
    for _ in table.measure(session, [transcript], found):
        pass

    assert [each for each in asked if each in CHANGES] == ["thinking", "edited"]
    assert found["changes"][: len(first["changes"])] == first["changes"]
    assert [row["strategy"] for row in found["turns"]] == list(table.SPECS)
    written = page.markdown({"models": {"some": {"command": "c", "regime": "r"} | found}})
    assert "| notes | edited | `blend` | 12.5% | 12.5% |" in written
    assert "`prefix` computes 12% of the prompt again and `blend` 12.5%" in written
    assert "The same number of rows" not in written  # no other allotment was measured


def test_the_committed_table_is_what_the_page_says():
    docs = Path(nbkv.__file__).resolve().parents[1] / "docs"
    data = json.loads((docs / "tables" / "edited.json").read_text(encoding="utf-8"))
    assert (docs / "edited-history.md").read_text(encoding="utf-8") == page.markdown(data)
    for about in data["models"].values():
        rows = [row for row in about["changes"] if row["change"] == "thinking"]
        again = {spec: [row["again"] for row in rows if row["strategy"] == spec] for spec in ("prefix", "blend")}
        assert max(again["blend"]) < 0.1
        assert min(again["prefix"]) > 0.5
        (turns,) = (row["again"] for row in about["turns"] if row["strategy"] == "blend")
        assert turns < 0.1
