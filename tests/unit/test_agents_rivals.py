"""The study of offsets: what its rivals add, and that its table says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import nbkv
from nbkv.show.marked import marked
from nbkv.studies.agents import rivals

GIVEN = [
    {"question": f"who bought {what} ? ", "answer": f"he bought {what} <<1+{n}={n + 1}>>for {n} coins .\n#### {n}"}
    for n, what in enumerate(["milk", "tea", "bread", "salt", "rice"], 2)
]


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny", strategy="full") as session:
        yield session


@pytest.fixture(scope="module")
def rows(session):
    return rivals.measure(session, GIVEN, warm=3, tokens=6)


def test_every_rival_is_measured_on_every_prompt_after_the_warm_ones(rows):
    assert [row["rival"] for row in rows] == list(rivals.rivals())
    assert all(row["n"] == len(row["kls"]) == 2 for row in rows)
    assert all(row["kl"] > 0 for row in rows)
    assert len({round(row["kl"], 9) for row in rows}) == len(rows)  # each does something of its own


def test_the_page_counts_on_how_many_prompts_ours_is_nearer(rows):
    lines = rivals.table(rows).splitlines()

    assert len(lines) == 2 + len(rows)
    nearer = sum(own < other for own, other in zip(rows[-1]["kls"], rows[0]["kls"], strict=True))
    assert f"| {nearer} of 2 |" in lines[2]
    assert lines[-1].endswith("|  |")


def test_prompts_differ_in_their_slots_alone(session):
    one, two = (rivals.prompt(session, given) for given in GIVEN[:2])

    assert [part for part in one if isinstance(part, str)] == [part for part in two if isinstance(part, str)]
    assert [len(one), sum(isinstance(part, str) for part in one)] == [7, 4]
    assert "<<" not in one[3].text


def test_random_offsets_are_as_long_as_ours(session):
    from anchors_by_hand import anchor

    from nbkv.families.agents.offsets import Alignment

    marks = torch.eye(32)[[4, 5, 6]]
    near = Alignment("token", 0.05).neighbours(marks, (4, 5, 6), [anchor([4, 9], [1.0, 2.0]), anchor([5, 8])])
    ones = torch.ones(2, 1)
    mine, random, none = (
        kind().offsets(near, ones).keys[0] for kind in (rivals.KVComm, rivals.RandomOffsets, rivals.WithoutOffsets)
    )

    assert float(random.norm()) == pytest.approx(float(mine.norm()), rel=0.8)
    assert not torch.allclose(random, mine)
    assert not none.any()


def test_it_writes_its_table(tmp_path, monkeypatch):
    data = tmp_path / "given.jsonl"
    data.write_text("\n".join(map(json.dumps, GIVEN)), encoding="utf-8")
    (tmp_path / "tables").mkdir()
    monkeypatch.setattr(rivals, "TOKENS", 4)
    page = tmp_path / "agents.md"
    page.write_text(f"before\n{rivals.BEGIN}\nold\n{rivals.END}\nafter\n", encoding="utf-8")
    told = rivals.main(str(data), "tiny", warm=3, n=1, folder=str(tmp_path))
    written = json.loads((tmp_path / "tables" / "kvcomm.json").read_text(encoding="utf-8"))

    assert rivals.table(written["rows"]) == told
    assert written["prompts"] == 1
    assert (
        page.read_text(encoding="utf-8") == f"before\n{rivals.BEGIN}\n{rivals.section(written)}\n{rivals.END}\nafter\n"
    )


@pytest.mark.parametrize(("mine", "worse"), [([0.1, 0.1, 0.1], 0), ([0.3, 0.1, 0.1], 1), ([0.3, 0.9, 0.0], 2)])
def test_the_section_says_on_how_many_prompts_offsets_lead_away(rows, mine, worse):
    told = [row | {"kls": mine if row is rows[-1] else [0.2, 0.2, 0.0], "n": 3} for row in rows]
    data = {"command": "c", "model": "m", "warm": 3, "prompts": 3, "tokens": 6, "rows": told}
    worse += mine[2] > 0  # than a prompt that nothing was reused of
    written = rivals.section(data)

    assert f"lead further from full on {worse} of 3 prompts" in written
    assert "| 2 of 3 |" in written


def test_the_committed_section_is_what_the_table_says():
    docs = Path(nbkv.__file__).resolve().parents[1] / "docs"
    data = json.loads((docs / "tables" / "kvcomm.json").read_text(encoding="utf-8"))
    page = (docs / "agents.md").read_text(encoding="utf-8")

    assert rivals.BEGIN in page
    assert marked(page, rivals.BEGIN, rivals.section(data), rivals.END) == page
