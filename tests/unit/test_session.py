from __future__ import annotations

import numpy as np
import pytest

import nbkv
from nbkv.errors import BadOption, BadPrompt, UnknownName


def test_bad_input_leaves_the_session_usable(session_of, words, make_model, tokenizer):
    session = session_of()
    with nbkv.load(make_model("llama", seed=9), tokenizer=tokenizer) as other:
        foreign = other.chunk(words(5), name="foreign")
    for wrong, error in (
        (lambda: session.generate(""), BadPrompt),
        (lambda: session.generate([]), BadPrompt),
        (lambda: session.generate([foreign, "w1"]), BadPrompt),
        (lambda: session.generate("w1", strategy="prefxi"), UnknownName),
        (lambda: session.generate("w1", strategy="prefix(size=3)"), BadOption),
        (lambda: session.generate("w1", max_new_tokens=-1), BadOption),
        (lambda: session.generate("w1", colour=1), BadOption),
        (lambda: session.compare("w1", ["full"], repeat=0), BadOption),
        (lambda: session.chunk(""), BadPrompt),
        (lambda: session.chunk("w1", sink="drain"), BadOption),
        (lambda: session.use("nothing"), UnknownName),
        (lambda: session.use_store("cupboard"), BadOption),
    ):
        with pytest.raises(error) as caught:
            wrong()
        assert "\n" not in str(caught.value)
    assert session.generate(words(5), max_new_tokens=2).text


def test_an_answer_is_a_chunk_of_the_very_ids(session_of, words):
    session = session_of()
    result = session.generate(words(20), max_new_tokens=6)
    follow = session.generate([words(3), result, words(2)], max_new_tokens=2)

    assert follow.prompt_ids[4:10] == result.token_ids
    assert result.chunk("plan").name == "plan"
    assert result.chunk("plan").token_ids == result.token_ids
    for name in ("", None, 3):
        with pytest.raises(BadOption, match="name of a chunk"):
            result.chunk(name)


def test_events_tell_the_story(session_of, words):
    session, seen = session_of(), []
    session.generate(words(20), max_new_tokens=2)
    session.events.add(seen.append)
    session.generate(words(20), max_new_tokens=3)
    kinds = [type(event).__name__ for event in seen]

    assert kinds[:2] == ["Started", "Reused"]
    assert kinds.count("Token") == 3
    assert kinds[-1] == "Finished"
    assert all(event.request == 2 for event in seen if type(event).__name__ != "Stored")
    assert all(isinstance(event.to_dict()["event"], str) for event in seen)


def test_a_listener_that_raises_is_dropped_once(session_of, words):
    session = session_of()

    def broken(event):
        message = "no"
        raise ValueError(message)

    session.events.add(broken)
    with pytest.warns(UserWarning, match="dropped"):
        session.generate(words(5), max_new_tokens=2)
    session.generate(words(5), max_new_tokens=2)


REFUSED = {
    "generate a number": lambda s: s.generate(5),
    "generate a dict": lambda s: s.generate({"role": "user", "content": "w1"}),
    "stream a set": lambda s: s.stream({"w1"}),
    "compare nothing": lambda s: s.compare(None),
    "compare by a number": lambda s: s.compare("w1", 5),
    "compare a number of strategies": lambda s: s.compare("w1", [5]),
    "repeat": lambda s: s.compare("w1", repeat=np.float64(2)),
    "chunk of bytes": lambda s: s.chunk(b"w1"),
    "chunk of parts": lambda s: s.chunk(["w1"]),
    "name of a chunk": lambda s: s.chunk("w1", name=5),
    "sink": lambda s: s.chunk("w1", sink=5),
    "verify a number": lambda s: s.verify(5),
    "certify a text": lambda s: s.certify("w1", max_kl=1),
    "certify a dict": lambda s: s.certify({"w1": "w2"}, max_kl=1),
    "certify nothing": lambda s: s.certify(None, max_kl=1),
    "match": lambda s: s.generate("w1", match=["auto"]),
    "force": lambda s: s.generate("w1", force="yes"),
    "fidelity": lambda s: s.generate("w1", fidelity=1),
    "strategy": lambda s: s.generate("w1", strategy=5),
    "use": lambda s: s.use(None),
    "use_store": lambda s: s.use_store(5),
    "stop": lambda s: s.generate("w1", stop={"w1"}),
    "template_kwargs": lambda s: s.generate([{"role": "user", "content": "w1"}], template_kwargs=[1]),
    "template_kwargs of a text": lambda s: s.generate("w1", template_kwargs={"deep": 1}),
    "continue_final_message": lambda s: s.stream(["w1"], continue_final_message=True),
    "system": lambda s: s.chat(5).send("w1"),
    "load a number": lambda s: nbkv.load(5),
    "load with a store": lambda s: nbkv.load(s.adapter.model, tokenizer=s.tokenizer, store=5),
    "load with a tokenizer": lambda s: nbkv.load(s.adapter.model, tokenizer="tiny"),
    "load with kwargs": lambda s: nbkv.load("tiny", model_kwargs=[1]),
    "load with a dtype": lambda s: nbkv.load("tiny", dtype=["float32"]),
    "load with a device": lambda s: nbkv.load("tiny", device=["cpu"]),
    "fidelity_every": lambda s: nbkv.load(s.adapter.model, tokenizer=s.tokenizer, fidelity_every=1.0),
}


@pytest.mark.parametrize("asked", REFUSED)
def test_what_cannot_be_is_one_line_that_names_it(session_of, asked):
    session = session_of()
    with pytest.raises((nbkv.BadPrompt, nbkv.BadOption, nbkv.UnsupportedModel)) as caught:
        REFUSED[asked](session)

    assert "\n" not in str(caught.value)
    assert session.generate("w1", max_new_tokens=np.int64(1), temperature=np.float32(0)).finish_reason == "length"
