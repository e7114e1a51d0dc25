"""A tour of a user's own documents: what is read, what is measured, and what so few prompts allow to be said."""

import json
from pathlib import Path

import numpy as np
import pytest

import nbkv
from nbkv.errors import BadOption, BadPrompt, LoadError
from nbkv.events import Advanced
from nbkv.families.routing import binomial
from nbkv.session.tours import tour as tours
from nbkv.session.tours.documents import made_prompts, read_documents


@pytest.fixture
def texts(words):
    return [words(30, seed=i) for i in range(4)]


@pytest.fixture
def session(session_of):
    return session_of()


def test_what_is_measured_is_what_is_recommended(session, texts):
    found = nbkv.tour(session, texts, n=3, tokens=90, max_kl=99, strategies="prefix,cacheblend(budget=0.1),full")
    assert isinstance(found, tours.Tour)
    assert [row["strategy"] for row in found.rows] == ["prefix", "cacheblend(budget=0.1)"]
    assert (found.n, found.documents, found.stopped) == (3, 4, "")
    prefix, blend = found.rows
    assert prefix["at_most"] is None
    assert blend["at_most"] == binomial.upper_bound(0, 3, 0.1)
    assert blend["compute_share"] < 1
    for row in found.rows:
        assert row["speedup"] == pytest.approx(row["full_s"] / row["ttft_s"])
    fastest = max(found.rows, key=lambda row: row["speedup"])
    assert found.recommended == (fastest["strategy"] if fastest["speedup"] >= tours.FASTER else "full")
    assert found.why.startswith(f"{found.recommended}: ")
    assert found.encode_s > 0
    assert found.encoded_bytes > 0
    json.dumps(found.to_dict())
    assert not session.closed
    assert session.stats.requests == 0
    assert session.store.tiers["entries"].sum() == 0


def row(strategy, speedup, *, above=0, exact=False):
    return {
        "strategy": strategy,
        "speedup": speedup,
        "above": above,
        "exact": exact,
        "at_most": None if exact else 0.25,
    }


@pytest.mark.parametrize(
    ("rows", "recommended"),
    [
        ([row("prefix", 1.5, exact=True), row("blend", 3.0)], "blend"),
        ([row("prefix", 1.5, exact=True), row("blend", 3.0, above=1)], "prefix"),
        ([row("prefix", 1.05, exact=True), row("blend", 0.5)], "full"),
        ([row("blend", 9.0, above=8)], "full"),
    ],
)
def test_the_fastest_that_keeps_the_bound_is_recommended(session, texts, monkeypatch, rows, recommended):
    filled = {"ttft_s": 1.0, "full_s": 2.0, "compute_share": 0.5, "kl": 0.01, "kl_max": 0.02}
    monkeypatch.setattr(tours._Touring, "_rows", lambda self: [filled | one for one in rows])
    found = nbkv.tour(session, texts, n=1, tokens=60, strategies="full")
    assert found.recommended == recommended
    assert found.why.startswith(recommended)
    assert ("certify" in found.sample) == (recommended == "blend")
    assert "(recommended)" in repr(found) or recommended == "full"
    assert found.why.replace("'", "&#x27;") in found._repr_html_()


@pytest.mark.parametrize("how", ["stop", "interrupt"])
def test_a_stopped_tour_tells_what_it_has(session, texts, how):
    import signal

    def at(event):
        if isinstance(event, Advanced) and event.done == 2 and not event.over:
            session.stop() if how == "stop" else signal.raise_signal(signal.SIGINT)

    session.events.add(at)
    if how == "stop":
        found = nbkv.tour(session, texts, n=4, tokens=60, strategies="prefix")
    else:
        with pytest.raises(KeyboardInterrupt) as raised:
            nbkv.tour(session, texts, n=4, tokens=60, strategies="prefix")
        found = raised.value.result
    assert found.stopped == "stopped after 2 of 5 steps"
    assert found.n == 1
    assert "stopped after 2 of 5 steps, so far" in repr(found)


def test_documents_longer_than_asked_for_are_cut_and_that_is_said(session, words):
    found = nbkv.tour(session, [words(400, seed=i) for i in range(3)], n=1, tokens=90, strategies="prefix")
    assert 60 < found.tokens < 150
    assert "cut" in found.notes[0]


def test_documents_are_texts_files_or_folders(tmp_path):
    (tmp_path / "a.md").write_text("first")
    (tmp_path / "b.txt").write_text("second one")
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe")
    assert read_documents(tmp_path) == ["first", "second one"]
    assert read_documents(str(tmp_path)) == ["first", "second one"]
    assert read_documents([tmp_path / "a.md", "a text of its own", "a text of its own"]) == [
        "first",
        "a text of its own",
    ]
    assert read_documents("one\n\ntwo\n \nthree") == ["one", "two", "three"]
    for missing in ("missing.txt", tmp_path / "none.md", [tmp_path / "c.bin"]):
        with pytest.raises(LoadError, match="accepted: documents are texts, text files"):
            read_documents(missing)
    for nothing in ([], "", " \n ", None, 5, [7], np.float64(1)):
        with pytest.raises(BadOption, match="accepted: documents are texts"):
            read_documents(nothing)


def test_prompts_draw_documents_anew_and_always_alike(texts):
    made = made_prompts(texts, ["who ?", "what ?"], 5)
    assert [item.question for item in made] == ["who ?", "what ?", "who ?", "what ?", "who ?"]
    assert all(len(set(item.chunks)) == 3 for item in made)
    assert len({tuple(item.chunks) for item in made}) > 1
    assert made == made_prompts(texts, ["who ?", "what ?"], 5)
    assert made_prompts(texts[:1], None, 1)[0].question
    for wrong in ([], ["", "x"], [3]):
        with pytest.raises(BadPrompt, match="questions are non-empty texts"):
            made_prompts(texts, wrong, 1)


@pytest.mark.parametrize(
    "given", [{"n": 0}, {"n": 1.5}, {"tokens": "many"}, {"max_kl": -1}, {"max_kl": float("nan")}, {"dtype": "float32"}]
)
def test_options_that_cannot_be_are_one_line(session, texts, given):
    with pytest.raises(BadOption, match=r"accepted|leave them out"):
        nbkv.tour(session, texts, **given)


def test_a_model_by_name_is_loaded_and_closed_again():
    from nbkv.roster import roster

    before = list(roster)
    text = Path(nbkv.__file__).read_text(encoding="utf-8")
    found = nbkv.tour("tiny", text, n=1, tokens=120, strategies="prefix")
    assert found.model == "tiny"
    assert list(roster) == before
