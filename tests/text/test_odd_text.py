"""Text as people have it: halves of characters, blanks, zero-width characters, emoji, scripts of all directions."""

from __future__ import annotations

import numpy as np
import pytest

import nbkv
from nbkv.errors import BadPrompt
from nbkv.misses import Cause


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny") as opened:
        yield opened


HALVES = ["bad \ud800 text", "\udfff", "Who pays ?" * 20 + "\udc80"]
ASKED = {
    "generate": lambda session, text: session.generate(text),
    "part": lambda session, text: session.generate(["Noted. ", text]),
    "chunk": lambda session, text: session.chunk(text),
    "chat": lambda session, text: session.chat().send(text),
    "rerank": lambda session, text: session.rerank(text, ["Nina pays ."]),
    "compare": lambda session, text: session.compare(text, "prefix"),
}


@pytest.mark.parametrize("text", HALVES, ids=["within", "alone", "end"])
@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_half_a_character_is_named_and_placed(session, ask, text):
    with pytest.raises(BadPrompt, match=r"the text has '\\ud\w+' at \d+, half of a character.*errors='replace'"):
        ask(session, text)


@pytest.mark.parametrize("text", [" ", "\n\n", "\t  "])
def test_a_chunk_without_a_token_is_refused(session, text):
    known = set(session.chunks)
    with pytest.raises(BadPrompt, match="the tokenizer makes none of"):
        session.chunk(text)
    assert set(session.chunks) == known


@pytest.mark.parametrize(
    "text",
    [
        "Who\u200b pays\u200d ?\ufeff",
        "Who pays 👩‍👩‍👧‍👦 ?",
        "من يدفع ؟",
        "誰が払う\uff1f",
        "\u0301\u0301",
        "Who \x00 pays ?",
        "Who </s> pays <s> ?",
        "a" * 200_000,
    ],
)
def test_any_text_is_served_shown_and_reused_as_the_same_tokens(session, text):
    first = session.generate([text, " Who pays ?"], strategy="prefix", max_new_tokens=2)
    again = session.generate([text, " Who pays ?"], strategy="prefix", max_new_tokens=2)
    assert again.token_ids == first.token_ids
    assert again.tokens.fresh == 0
    assert len(again.prompt_pieces) == len(again.prompt_ids)
    shown = again._repr_html_()
    shown.encode()  # a page can be written
    assert "\x00" not in shown


@pytest.mark.parametrize("kind", [np.str_, type("Text", (str,), {})])
def test_names_and_texts_of_other_kinds_of_str_become_plain(session, kind):
    made = session.chunk(kind("Nina pays in krona ."), name=kind("notes"))
    assert (type(made.name), type(made.text)) == (str, str)
    assert "np.str_" not in repr(made)
    assert made == session.chunk("Nina pays in krona .", name="notes")


@pytest.mark.parametrize(("words", "found"), [(2, False), (9, False), (60, True)])
def test_a_restarted_session_says_from_how_many_tokens_on_a_disk_finds_a_beginning(tmp_path, words, found):
    prompt = "Nina pays in krona . " * words + "Who pays ?"
    for _ in range(2):
        with nbkv.load("tiny", store=f"memory+disk:{tmp_path}") as opened:
            result = opened.generate(prompt, max_new_tokens=2, strategy="prefix")
            why = result.why
    assert (result.tokens.reused > 0) == found
    elsewhere = [miss for miss in why.misses if miss.cause == Cause.ELSEWHERE]
    assert [("from 64 tokens on" in miss.fix) for miss in elsewhere] == ([] if found else [True])
