"""What a result says was computed is what the model's layers really ran, prompt and answer, under every strategy."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

import nbkv
from nbkv.registry import strategies as registry
from nbkv.strategy import parse

NAMES = registry.names()
RESTORING = [name for name in NAMES if hasattr(registry.get(name), "form")]
ONCE = [name for name in NAMES if name not in RESTORING and "blockwise" not in registry.get(name).needs]


@contextmanager
def counting(adapter):
    """Count the rows that enter a layer of the model, and those that pass it to its end."""
    rows = {"entered": 0, "passed": 0}

    def count(what):
        def add(_, given, kwargs, *__):
            rows[what] += (given[0] if given else kwargs["hidden_states"]).shape[-2]

        return add

    layers = adapter.model.model.layers
    hooks = [layer.register_forward_pre_hook(count("entered"), with_kwargs=True) for layer in layers]
    hooks += [layer.register_forward_hook(count("passed"), with_kwargs=True) for layer in layers]
    try:
        yield rows
    finally:
        for hook in hooks:
            hook.remove()


def asked(session, spec, words, tokens=10):
    """Return the result of a request, the token-layers it says it ran for the prompt and again, and what was run."""
    chunk = session.chunk(words(40), name="c")
    prompt = [words(4, seed=1), chunk, words(6, seed=2)]
    session.generate([words(9, seed=4), chunk, words(5, seed=5)], strategy=spec, max_new_tokens=tokens)
    with counting(session.adapter) as ran:
        result = session.generate(prompt, strategy=spec, max_new_tokens=tokens)
    unit = len(result.prompt_ids) * session.adapter.n_layers
    return result, round(result.compute.share * unit), round(result.compute.decode * unit), ran


@pytest.mark.parametrize("name", ONCE)
def test_answers_run_each_token_once(session_of, words, name):
    session = session_of("llama")
    result, prompt, again, ran = asked(session, name, words)

    assert again == 0
    # the same, but where a pass ends inside of a layer, with K/V made: those rows count as if they had passed it
    told = prompt + (len(result.token_ids) - 1) * session.adapter.n_layers
    assert ran["passed"] <= told <= ran["entered"]


@pytest.mark.parametrize("name", RESTORING)
@pytest.mark.parametrize("form", ["ids", "first(2)", "every(2)", "layers", "host", "start(1)"])
def test_what_is_restored_for_each_token_is_counted(session_of, words, name, form):
    session = session_of("llama")
    result, prompt, again, ran = asked(session, f"{name}(keep=0.25, form='{form}')", words)

    assert prompt + again + (len(result.token_ids) - 1) * session.adapter.n_layers == ran["passed"]
    assert (again > 0) == (form not in {"layers", "host"})


@pytest.mark.parametrize("name", ["full", *(name for name in NAMES if "blockwise" in registry.get(name).needs)])
def test_passes_over_a_block_are_counted(session_of, words, name):
    session = session_of("sdar")
    result, prompt, again, ran = asked(session, name, words)
    blocks, size = result.decoding["blocks"], result.decoding["block"]

    assert prompt + again + blocks * size * session.adapter.n_layers == ran["passed"]
    assert again == (result.decoding["forwards"] - blocks) * size * session.adapter.n_layers > 0


def test_evictions_run_nothing_again(session_of, words):
    dropping = [name for name in NAMES if registry.get(name).family == "evict"]
    for name in dropping:
        options = ", window=3" if parse(name).lag else ""
        result, _, again, _ = asked(session_of("llama"), f"{name}(keep=16{options})", words)
        assert again == 0
        assert not result.kept.all()


def test_a_longrope_answer_that_starts_over_says_so(make_model, tokenizer, words):
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 40}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [1.0 + i for i in range(8)]}
    model = make_model("phi3", rope_parameters=rope, original_max_position_embeddings=40)
    with nbkv.load(model, tokenizer=tokenizer, strategy="full") as session:
        with counting(session.adapter) as ran:
            result = session.generate(words(35), max_new_tokens=9)
        layers = session.adapter.n_layers
    unit = len(result.prompt_ids) * layers

    assert result.compute.decode > 1
    assert round((result.compute.share + result.compute.decode) * unit) + 8 * layers == ran["passed"]
