"""Whatever torch mode a caller is in, what a request leaves behind serves every later one."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from nbkv.torch_mode import usual_mode


@contextmanager
def default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES = {
    "inference": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": default_dtype,
    "meta": lambda: torch.device("meta"),
}


@pytest.fixture(params=MODES)
def mode(request):
    return MODES[request.param]


@pytest.fixture(params=["cacheblend", "residual"])
def session(request, session_of):
    return session_of(strategy=request.param)


def answers(session, words, within=None):
    """Ask what makes and uses K/V in each way, the first time ``within`` a mode."""
    within = within or usual_mode

    def ask(again=0):
        chunk = session.chunk(words(20, seed=5), name="c")
        streamed = session.stream(words(24, seed=1 + again), max_new_tokens=6)
        parts = session.generate([words(4), chunk, words(6, seed=2 + again)], max_new_tokens=6, temperature=0.5)
        return "".join(streamed), parts.token_ids

    with within():
        first = ask()
    return first, ask(), ask(again=1)


def test_a_first_request_in_any_mode_leaves_later_ones_as_they_are(session, session_of, mode, words):
    reference = answers(session_of(strategy=session.strategy.spec), words)

    assert answers(session, words, mode) == reference
    assert torch.get_default_dtype() == torch.float32


def test_a_stream_begun_in_a_mode_may_go_on_outside_of_it(session_of, mode, words):
    session = session_of()
    whole = session_of().generate(words(20), max_new_tokens=8)
    with mode():
        stream = session.stream(words(20), max_new_tokens=8)
        pieces = [next(stream)]
    pieces += list(stream)
    again = session.generate(words(20), max_new_tokens=8)

    assert "".join(pieces) == whole.text == again.text
    assert again.tokens.reused == 20


def test_a_stream_closed_in_a_mode_gives_the_store_what_others_can_use(session_of, mode, words):
    session, whole = session_of(), session_of().generate(words(20), max_new_tokens=8)
    stream = session.stream(words(20), max_new_tokens=8)
    next(stream)
    next(stream)
    with mode():
        stream.close()

    assert session.generate(words(20), max_new_tokens=8).text == whole.text


def test_loading_checking_and_comparing_in_any_mode(make_model, tokenizer, mode, words):
    import nbkv

    model = make_model("llama")
    with mode():
        session = nbkv.load(model, tokenizer=tokenizer)
        report = session.verify(["prefix", "cacheblend"])
        table = session.compare(words(12), ["full", "prefix"], repeat=1, max_new_tokens=4)
    with session:
        assert report.ok
        assert table.to_frame()["same_text"].all()
        assert session.generate(words(12), max_new_tokens=4).text == table.results[0].text


def test_the_mode_of_the_caller_comes_back():
    with torch.inference_mode(), torch.device("meta"), usual_mode():
        inside = torch.empty(1)
        raised = pytest.raises(ZeroDivisionError)
    with raised, torch.no_grad(), default_dtype(), usual_mode():
        assert torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float32
        raise ZeroDivisionError

    assert (inside.device.type, inside.is_inference()) == ("cpu", False)
    assert torch.is_grad_enabled()
