from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest

import nbkv
from nbkv.errors import BadOption
from nbkv.result import Provenance
from nbkv.studies.oracle import oracle
from nbkv.tasks import Dialogue, Item, chat, evaluate, ledger, needle, report, trace
from nbkv.tasks.evaluate import is_correct, normal
from nbkv.tasks.vocabulary import tokens
from nbkv.tasks.writer import MAX_LINES

WORD = re.compile(r"[A-Za-z]+|[0-9]+|[^\sA-Za-z0-9]")
MAKERS = {
    "ledger": lambda seed: ledger(seed, n=40, distance=0),
    "report": lambda seed: report(seed, n=20, distance=0),
    "chat": lambda seed: chat(seed, n=20),
    "needle": lambda seed: needle(seed, n=20, values=2, queries=2),
    "trace": lambda seed: trace(seed, n=20),
}


def texts(item) -> list[str]:
    return [*item.turns, *item.answers] if isinstance(item, Dialogue) else [*item.chunks, item.question, *item.answers]


@pytest.mark.parametrize("task", MAKERS)
def test_the_seed_decides_everything_in_every_process(task):
    script = (
        "import hashlib, sys; from nbkv.tasks import *;"
        f"items = {task}(3, n=5); print('torch' in sys.modules, hashlib.sha256(repr(items).encode()).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0].startswith("False")
    assert MAKERS[task](3) == MAKERS[task](3) != MAKERS[task](4)


@pytest.mark.parametrize("task", MAKERS)
def test_every_word_is_in_the_vocabulary(task):
    known = set(tokens())
    assert len(known) == len(tokens())
    for item in MAKERS[task](5):
        for text in texts(item):
            assert set(WORD.findall(text)) <= known


def test_the_frozen_tasks():
    first = ledger(seed=0, n=2)[0]
    assert (first.question, first.answers, first.kind, first.distance) == FIRST
    assert first.chunks[0].partition(".")[0] == OPENING


FIRST = ("And the pencil?", ["248 dollar."], "carried", 1)
OPENING = "Pay Flora franc"


def test_questions_hold_no_word_of_their_answer():
    for seed in range(5):
        for item in ledger(seed, n=40, distance=0):
            asked = set(WORD.findall(item.question))
            assert not asked & {word for answer in item.answers for word in WORD.findall(answer)}


@pytest.mark.parametrize("distance", [1, 2, 3, 7])
def test_carried_lines_depend_on_a_chunk_so_many_chunks_back(distance):
    for item in ledger(seed=1, n=40, distance=distance)[::2]:
        (evidence,) = item.oracle
        (asked,), (giving,) = evidence.asked, evidence.giving
        assert item.kind == "carried"
        assert asked.chunk - giving.chunk == distance == item.distance
        line = item.chunks[asked.chunk][asked.start : asked.stop]
        declared = item.chunks[giving.chunk][giving.start : giving.stop]
        person, currency = re.fullmatch(r"Pay (\w+) (\w+)\.", declared).groups()
        named, amount = re.fullmatch(r"(\w+) (\d+)\.", line).groups()
        assert item.answers == [f"{amount} {currency}."]
        assert item.question.endswith(f"{named}?")
        assert person not in line
        assert "Pay " not in between(item.chunks, giving, asked)


def between(chunks, first, last) -> str:
    middle = chunks[first.chunk + 1 : last.chunk]
    return "".join([chunks[first.chunk][first.stop :], *middle, chunks[last.chunk][: last.start]])


def test_local_lines_need_their_own_chunk_only():
    items = ledger(seed=2, n=200)[1::2]
    assert {item.kind for item in items} == {"local"}
    for item in items:
        (evidence,) = item.oracle
        assert {place.chunk for place in (*evidence.asked, *evidence.giving)} == {evidence.asked[0].chunk}


@pytest.mark.parametrize("distance", [0, 1])
def test_two_targets_are_both_lines_of_a_section(distance):
    items = ledger(seed=3, n=20, targets=2, distance=distance)
    assert [item.kind for item in items] == ["carried", "local"] * 10
    for item in items:
        assert len(item.answers) == len(item.oracle) == 2
        for answer, evidence in zip(item.answers, item.oracle, strict=True):
            (asked,), (giving,) = evidence.asked, evidence.giving
            line = item.chunks[asked.chunk][asked.start : asked.stop]
            person, currency = item.chunks[giving.chunk][giving.start : giving.stop - 1].split()[1:]
            assert answer == f"{line[:-1]} {currency}."
            assert item.question.endswith(f"{person}?")
            assert asked.chunk - giving.chunk == item.distance == (item.kind == "carried")


@pytest.mark.slow
def test_the_bundled_reader_answers_both_targets():
    with nbkv.load("tiny") as session:
        assert evaluate(session, ledger(seed=823, n=40, targets=2), "full")["correct"].mean() >= 0.95


def test_documents_do_not_always_open_with_a_declaration():
    opens = [item.chunks[0].startswith("Pay ") for item in ledger(seed=0, n=200)]
    assert 0.3 < sum(opens) / len(opens) < 0.75


def test_items_and_amounts_of_one_document_come_once():
    for item in ledger(seed=0, n=5, chunks=10, lines=50):
        listed = re.findall(r"\b([a-z]+) (\d+)", "".join(item.chunks))
        for seen in zip(*listed, strict=True):
            assert len(seen) == len(set(seen)) > 100


def test_reports_are_32_to_128_tokens_and_say_a_section_across_borders():
    for item in report(seed=0, n=50, distance=0):
        (evidence,) = item.oracle
        size = len(WORD.findall(item.answers[0]))
        assert 32 <= size == 4 * len(evidence.asked) <= 128
        (giving,) = evidence.giving
        declared = item.chunks[giving.chunk][giving.start : giving.stop]
        lines = [item.chunks[p.chunk][p.start : p.stop] for p in evidence.asked]
        asked_for = item.question.removesuffix("?").split()[-1]
        person, currency = re.fullmatch(r"Pay (\w+) (\w+)\.", declared).groups()
        assert asked_for == person
        assert item.answers[0] == " ".join(f"{line.removesuffix('.')} {currency}." for line in lines)
        assert evidence.asked[-1].chunk - giving.chunk == item.distance >= 1


def test_chats_have_6_to_20_turns_over_growing_notes():
    items = chat(seed=0, n=60)
    assert {len(item.turns) for item in items} >= {6, 20}
    for item in items:
        assert len(item.turns) == len(item.answers) == len(item.kinds) == len(item.oracle)
        for turn, evidence, kind in zip(range(len(item.turns)), item.oracle, item.kinds, strict=True):
            assert (kind == "noted") == (item.answers[turn] == "Noted.")
            for place in (*evidence.asked, *evidence.giving):
                assert place.chunk <= turn
                assert item.turns[place.chunk][place.start : place.stop].endswith(".")


@pytest.mark.parametrize(
    ("task", "sizes"),
    [
        (ledger, {"distance": 8}),
        (ledger, {"distance": -1}),
        (ledger, {"n": 0}),
        (ledger, {"chunks": 1, "distance": 0}),
        (ledger, {"chunks": 9, "lines": MAX_LINES}),
        (report, {"distance": 5, "lines": 58}),
        (report, {"chunks": 1}),
        (ledger, {"targets": 3}),
        (ledger, {"targets": 2, "distance": 2}),
        (ledger, {"targets": 2, "lines": 2}),
        (needle, {"keys": 0}),
        (needle, {"keys": 2, "queries": 3}),
        (needle, {"keys": 49}),
        (trace, {"hops": 8}),
        (trace, {"chains": 7}),
        (chat, {"turns": 5}),
        (chat, {"chunks": 9, "turns": 6}),
    ],
)
def test_bad_sizes_are_refused_in_one_line(task, sizes):
    with pytest.raises(BadOption) as caught:
        task(**sizes)
    assert "\n" not in str(caught.value)
    assert "=" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "right"),
    [("34 euro.", True), (" 34  euro\n", True), ("34 euro .", True), ("34 Euro.", False), ("34 euro. 5", False)],
)
def test_correct_ignores_spaces_and_marks_at_the_end(text, right):
    assert is_correct(text, ["34 euro."]) is right
    assert normal(" a  b ?!\n") == "a b"


@dataclass
class Echo:
    """Stands in for a session: knows some answers, and what was asked of it."""

    answers: dict[str, str]
    asked: list = field(default_factory=list)
    source: Provenance = Provenance.CHUNK
    strategy: str = "prefix"
    has_template: bool = True

    def generate(self, prompt, *, strategy=None, max_new_tokens):
        self.asked.append((prompt, strategy, max_new_tokens))
        return self.send(prompt[-1])

    def chat(self):
        return self

    def send(self, text, **_options):
        return SimpleNamespace(
            text=self.answers.get(text, "no"),
            fidelity=None,
            compute=SimpleNamespace(share=0.5),
            timing=SimpleNamespace(ttft_s=0.1),
            hit_rate=0.25,
            tokens=SimpleNamespace(recomputed=12),
            provenance=np.array([self.source] * 16, dtype=np.uint8),
            notes=("a note",),
        )

    def chunk(self, text, *, name, sink):
        return (text, name, sink)

    def compare(self, prompt, strategies, **_options):
        import pandas as pd

        assert strategies == ["full", "epic"]
        return SimpleNamespace(to_frame=lambda: pd.DataFrame({"kl": [0.0, 0.125]}))


def test_evaluate_gives_one_row_per_item():
    items = ledger(n=2)
    session = Echo({items[0].question: " " + items[0].answers[0] + "\n"})
    frame = evaluate(session, items, strategy="full")
    assert frame["correct"].tolist() == [1.0, 0.0]
    assert frame["kind"].tolist() == ["carried", "local"]
    assert frame["kl"].map(math.isnan).all()
    assert set(frame.columns) >= {"compute_share", "ttft_s", "hit_rate", "recomputed", "text", "answer"}
    prompt, strategy, room = session.asked[0]
    assert prompt == [*items[0].chunks, items[0].question]
    assert strategy == "full"
    assert room >= 10
    assert evaluate(session, items, strategy="epic", fidelity=True)["kl"].tolist() == [0.125, 0.125]


@pytest.mark.parametrize("strategy", ["epic", "blend", "passage(budget=0.1)", "kvlink", "auto", "snapkv(inner='epic')"])
def test_what_reuses_chunks_is_given_chunks(strategy):
    (item,) = ledger(n=1)
    for asked, mine in ((strategy, "full"), (None, strategy)):
        session = Echo({}, strategy=mine)
        evaluate(session, [item], asked)
        assert [(text, sink) for text, _, sink in session.asked[0][0][:-1]] == [(text, "auto") for text in item.chunks]


@pytest.mark.parametrize("strategy", ["full", "prefix", "snapkv", "residual"])
def test_what_reuses_no_chunks_is_given_text(strategy):
    (item,) = ledger(n=1)
    session = Echo({})
    evaluate(session, [item], strategy)
    assert session.asked[0][0] == [*item.chunks, item.question]


def test_a_score_of_reuse_without_reuse_is_refused():
    items = ledger(n=2, chunks=3, lines=3)
    with nbkv.load("tiny") as session:
        with pytest.raises(BadOption, match=r"cacheblend reused nothing .*leave sink out") as error:
            evaluate(session, items, "cacheblend", sink=None)
        assert "\n" not in str(error.value)
        session.use("epic")
        with pytest.raises(BadOption, match="epic reused nothing"):
            evaluate(session, items, sink=None)
        with pytest.raises(BadOption, match=r"knows their prompts from the beginning \(session.store.clear"):
            evaluate(session, items)
        session.store.clear()
        assert (evaluate(session, items)["hit_rate"] > 0.2).all()
        assert len(evaluate(session, items, "prefix", sink=None)) == 2
    fallen = Echo({}, source=Provenance.FRESH)
    with pytest.raises(BadOption, match="a note"):
        evaluate(fallen, items, "epic")
    assert len(evaluate(fallen, items, "auto")) == 2
    assert len(evaluate(fallen, chat(n=1), "epic")) == 1  # turns continue their history


def test_metrics_of_an_item_become_columns_and_the_first_is_correct():
    item = Item(["Text."], "Who?", ["Anna Bell", "Bell"], "2hop", metrics=("em", "f1"), instruction="Answer.")
    session = Echo({"Who?": "the Bell"})
    frame = evaluate(session, [item, *ledger(n=1)], "full", chat=False)
    assert frame.loc[0, ["correct", "em", "f1", "answer"]].tolist() == [1.0, 1.0, 1.0, "Anna Bell | Bell"]
    assert frame.loc[1, ["em", "f1"]].isna().all()
    assert "exact" not in frame
    assert session.asked[0][0] == ["Answer.", "Text.", "Who?"]
    assert session.asked[0][2] > 32 > session.asked[1][2]


def test_items_with_an_instruction_are_asked_in_a_message_where_there_is_a_template():
    item = Item(["Text."], "Who?", ["Bell"], "2hop", instruction="Answer.")
    message = [{"role": "user", "content": ["Answer.", "Text.", "Who?"]}]
    for template, asked, wanted in (
        (True, None, message),
        (False, None, item.prompt(item.chunks)),
        (True, False, None),
    ):
        session = Echo({}, has_template=template)
        session.send = lambda _, answered=session.send: answered("")
        evaluate(session, [item], "full", chat=asked)
        assert session.asked[0][0] == (wanted or item.prompt(item.chunks))


def test_a_sink_makes_chunks_of_the_texts():
    (item,) = ledger(n=1)
    session = Echo({})
    assert evaluate(session, [item], sink="primer")["recomputed"].tolist() == [12.0]
    *chunks, question = session.asked[0][0]
    assert [(text, sink) for text, _, sink in chunks] == [(text, "primer") for text in item.chunks]
    assert question == item.question
    names = [name for _, name, _ in chunks]
    evaluate(session, [item], sink="bos")
    assert len({*names, *(name for _, name, _ in session.asked[1][0][:-1])}) == 2 * len(item.chunks)


@pytest.mark.parametrize("sink", ["bos", "primer"])
def test_chunks_are_encoded_before_the_prompt_and_a_full_budget_is_full(sink):
    items = ledger(n=2, chunks=3, lines=3)
    with nbkv.load("tiny") as session:
        full = evaluate(session, items, "full", sink=sink, fidelity=True)
        naive = evaluate(session, items, "cacheblend(0)", sink=sink)
        whole = evaluate(session, items, "cacheblend(1.0)", sink=sink, fidelity=True)
    assert full["kl"].max() < 1e-6
    assert (full["compute_share"] == 1).all()
    assert (naive["hit_rate"] > 0.8).all()
    assert (naive["recomputed"] <= 1).all()
    assert whole["text"].tolist() == full["text"].tolist()
    assert whole["kl"].max() < 1e-6
    assert (whole["recomputed"] > 10).all()


def test_the_distance_is_measured_before_anything_of_the_prompt_is_kept():
    order, session = [], Echo({})
    generate, compare = session.generate, session.compare
    session.generate = lambda *given, **more: order.append("answer") or generate(*given, **more)
    session.compare = lambda *given, **more: order.append("distance") or compare(*given, **more)
    evaluate(session, ledger(n=1), "epic", fidelity=True)
    assert order == ["distance", "answer"]


def test_an_oracle_is_made_for_each_item():
    items = ledger(n=2, chunks=3, lines=3)
    with nbkv.load("tiny") as session:
        frame = evaluate(session, items, oracle("line"), sink="bos", fidelity=True)
    assert (frame["recomputed"] > 2).all()
    assert (frame["compute_share"] < 0.6).all()
    assert frame["kl"].notna().all()


def test_a_dialogue_scores_the_share_of_its_turns():
    item = chat(n=1, turns=8)[0]
    half = dict(list(zip(item.turns, item.answers, strict=True))[:4])
    frame = evaluate(Echo(half), [item])
    assert frame["correct"].tolist() == [0.5]
    assert frame["kind"].tolist() == ["chat"]
