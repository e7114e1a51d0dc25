"""Requests inside whatever mode of torch their caller is in."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import pytest
import torch
from shrinking import remembering, small_model

import nbkv
from nbkv.torch_mode import usual_mode


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


MODES = {
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta device": lambda: torch.device("meta"),
}


@pytest.fixture(params=MODES)
def mode(request):
    return MODES[request.param]


def everything(session, words):
    """Ask for answers in all the ways there are, and return them."""
    chunk = session.chunk(words(20, seed=1), name="a")
    stream = session.stream(words(30, seed=2), max_new_tokens=6)
    next(stream)
    stream.close()
    return [
        session.generate(prompt, max_new_tokens=4).token_ids
        for prompt in ([words(5), chunk, words(4)], words(30, seed=2), words(30, seed=2) + words(5))
    ]


@pytest.fixture(scope="module")
def answers():
    """What sessions say that never saw a mode, by strategy."""
    return {}


def answers_outlive(mode, strategy, session_of, words, answers):
    if strategy not in answers:
        answers[strategy] = everything(session_of(strategy=strategy), words)
    session = session_of(strategy=strategy)
    with mode():
        inside = everything(session, words)
    outside = everything(session, words)

    assert inside == outside == answers[strategy]


def test_what_a_mode_left_behind_serves_requests_outside_of_it(session_of, words, mode, answers):
    answers_outlive(mode, "prefix", session_of, words, answers)


@pytest.mark.parametrize("strategy", ["prophet", "residual", "snapkv", "kvshare"])
def test_whatever_a_strategy_keeps_outlives_all_modes_at_once(session_of, words, strategy, answers):
    @contextmanager
    def modes():
        with ExitStack() as stack:
            for each in MODES.values():
                stack.enter_context(each())
            yield

    answers_outlive(modes, strategy, session_of, words, answers)


@pytest.mark.filterwarnings("ignore")  # transformers' own, about kernels that are not installed
@pytest.mark.parametrize("family", ["falcon_h1", "mamba2", "xlstm"])
def test_states_outlive_the_mode_they_were_made_in(tokenizer, words, family):
    model, prompt = remembering(small_model(family)), words(20)
    with nbkv.load(model, tokenizer=tokenizer, store="memory?device=1GiB") as session:
        expected = session.generate(prompt + words(5), strategy="full", max_new_tokens=3).token_ids
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            stream = session.stream(prompt, max_new_tokens=8)
            next(stream)
            stream.close()
            session.generate(prompt, max_new_tokens=2)
        again = session.generate(prompt + words(5), max_new_tokens=3)

        assert again.token_ids == expected
        assert again.tokens.reused


def test_a_model_loaded_within_a_mode_is_the_same_model(mode):
    with mode():
        session = nbkv.load("tiny")
    with session, nbkv.load("tiny") as plain:
        assert session.adapter.fingerprint == plain.adapter.fingerprint
        assert not any(weight.is_inference() for weight in session.adapter.model.parameters())


def test_the_callers_mode_is_back_afterwards():
    with torch.inference_mode(), default_dtype(torch.float64), torch.device("meta"):
        with usual_mode():
            made = torch.ones(2)
            assert (made.device.type, made.dtype, made.is_inference()) == ("cpu", torch.float32, False)
        assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() is torch.float64
        assert torch.ones(2).is_meta
    with pytest.raises(KeyError), default_dtype(torch.float16), usual_mode():
        raise KeyError
    assert torch.is_grad_enabled()
