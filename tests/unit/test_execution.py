"""Requests inside whatever mode of torch their caller is in, and memory that ends, here or there."""

from __future__ import annotations

import errno
from contextlib import ExitStack, contextmanager

import pytest
import torch
from shrinking import remembering, small_model

import nbkv
from nbkv.errors import LoadError, OutOfMemory
from nbkv.execution import lacks_memory, memory_limits, own_modes
from nbkv.models import loading


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
LACKS = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: not enough memory: you tried to allocate"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


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
        with own_modes():
            made = torch.ones(2)
            assert (made.device.type, made.dtype, made.is_inference()) == ("cpu", torch.float32, False)
            assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled()
        assert torch.get_default_dtype() is torch.float64
        assert torch.ones(2).is_meta
    with pytest.raises(KeyError), default_dtype(torch.float16), own_modes():
        raise KeyError
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("error", LACKS, ids=str)
def test_memory_that_ends_is_one_error_in_answers_and_the_session_lives_on(session_of, words, monkeypatch, error):
    session, prompt = session_of(), words(30)
    expected = session.generate(prompt, strategy="full", max_new_tokens=4).token_ids

    def fail(*_):
        raise error

    hook = session.adapter.walk._own[1].register_forward_pre_hook(fail)
    try:
        for ask in (session.generate, session.chunk, session.compare, lambda text: list(session.stream(text))):
            with pytest.raises(OutOfMemory, match="not enough memory: shorten the prompt") as found:
                ask(prompt)
            assert found.value.__cause__ is error
    finally:
        hook.remove()

    assert session.generate(prompt, max_new_tokens=4).token_ids == expected


@pytest.mark.parametrize("error", LACKS, ids=str)
@pytest.mark.parametrize("where", ["AutoModelForCausalLM", "AutoTokenizer", "probe"])
def test_memory_that_ends_is_one_error_in_loading(monkeypatch, error, where):
    def fail(*_, **__):
        raise error

    if where == "probe":
        monkeypatch.setattr(loading, "probe", fail)
    else:
        monkeypatch.setattr(getattr(loading, where), "from_pretrained", fail)
    with pytest.raises(OutOfMemory, match="not enough memory to load tiny"):
        nbkv.load("tiny")


@pytest.mark.parametrize(
    "error", [RuntimeError("shape '[2]' is invalid"), ValueError("no such layer"), OSError(errno.ENOENT, "missing")]
)
def test_other_errors_keep_their_kind(monkeypatch, error):
    def fail(*_, **__):
        raise error

    assert not lacks_memory(error)
    with pytest.raises(type(error)), memory_limits("never"):
        raise error
    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(LoadError):
        nbkv.load("tiny")


def test_a_distance_that_finds_no_memory_leaves_the_answer(session_of, words, monkeypatch):
    def fail(*_):
        raise LACKS[0]

    monkeypatch.setattr("nbkv.session.measure.greedy", fail)
    result = session_of().generate(words(20), max_new_tokens=3, fidelity=True)

    assert result.fidelity is None
    assert "distance to full was not measured: there is not enough memory" in result.notes
