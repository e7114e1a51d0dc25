"""Memory that ends, on a device or on the host, in answers and in loading."""

from __future__ import annotations

import errno

import pytest
import torch

import nbkv
from nbkv.errors import LoadError, OutOfMemory, lacks_memory, memory_limits
from nbkv.models import loading

LACKS = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: not enough memory: you tried to allocate"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


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
