"""Residual recompute: the same answers in bounded memory, and what each form costs."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
import torch

import nbkv
from nbkv.errors import BadOption, UnsupportedModel
from nbkv.families.residual.forms import all_kv_bytes, parse
from nbkv.families.residual.planner import random_sequence
from nbkv.families.residual.sequence import BoundedSequence
from nbkv.models.caches.restoring import RestoringCache

EXACT = ["ids", "first(2)", "start(0)", "start(2)", "every(2)", "every(3)", "layers", "host", "mix(2)"]
LOSSY = ["int8", "int4", "latent", "latent(16)", "latent(32, 8)"]
# As many K/V heads as query heads, wide ones: a layer's input is a quarter of its K and V.
WIDE = {"num_key_value_heads": 4, "head_dim": 32, "num_hidden_layers": 6, "max_position_embeddings": 2048}


@pytest.fixture
def wide(make_model, tokenizer):
    with nbkv.load(make_model("qwen3", **WIDE), tokenizer=tokenizer, strategy="full") as session:
        yield session


def residual(form, keep=0.25, **more):
    options = ", ".join(f"{name}={value!r}" for name, value in {"keep": keep, "form": form, **more}.items())
    return f"residual({options})"


def chats(session, words, specs, turns, new=5, length=12):
    """Return the results of the same conversation under each of ``specs``, which all hear full's answers."""
    found = {}
    for spec in specs:
        chat = session.chat()
        found[spec] = [chat.send(words(length, seed=turn), max_new_tokens=new, strategy=spec) for turn in range(turns)]
    return found


@pytest.mark.parametrize("keep", [0.05, 0.25, 0.6, 1.0, 1, 40])
def test_twenty_turns_are_fulls(wide, words, keep):
    specs = ["full", residual("ids", keep)]
    full, mine = chats(wide, words, specs, turns=20, new=3).values()
    assert [r.token_ids for r in mine] == [r.token_ids for r in full]
    last = mine[-1]
    older = len(last.prompt_ids) + len(last.token_ids) - 1
    assert last.tokens.reused + last.tokens.recomputed + last.tokens.fresh == last.tokens.prompt
    assert (last.tokens.recomputed == 0) == (repr(keep) == "1.0")
    assert older > 250


@pytest.mark.parametrize("form", EXACT)
def test_every_form_gives_fulls_tokens(wide, words, form):
    full, mine = chats(wide, words, ["full", residual(form, 0.2)], turns=6).values()
    assert [r.token_ids for r in mine] == [r.token_ids for r in full]
    assert mine[-1].lineage == "exact"


@pytest.mark.parametrize("family", ["gemma2", "gemma3n", "gemma4", "gpt2", "bloom", "phi", "deepseek_v3", "qwen2_vl"])
def test_other_families(session_of, words, family):
    session = session_of(family, strategy="full")
    full, mine = chats(session, words, ["full", residual("ids", 0.3)], turns=3).values()
    assert [r.token_ids for r in mine] == [r.token_ids for r in full]


def logits(session, strategy, ids, steps):
    """Return the logits after ``ids`` and after each of ``steps``, under ``strategy``."""
    from nbkv.context import Request
    from nbkv.prompts.prompt import Prompt
    from nbkv.strategy import parse as strategy_of

    chosen, ctx = strategy_of(strategy), session._open().for_request()
    prefilled = chosen.prefill(Request(Prompt(tuple(ids)), len(steps), keep=False), ctx)
    found = [prefilled.logits]
    for count, token in enumerate(steps):
        found.append(chosen.step(token, len(ids) + count, prefilled, ctx))
    return torch.stack(found)


def test_a_new_prompt_and_copied_kv_are_fulls_bit_for_bit(wide):
    ids, steps = range(3, 120), [7, 9, 11]
    full = logits(wide, "full", ids, steps)
    for spec in (residual("host", 0.1), residual("ids", 1.0), residual("layers", 200)):
        assert torch.equal(logits(wide, spec, ids, steps), full)
    for form in EXACT:
        mine = logits(wide, residual(form, 0.1), ids, steps)
        assert torch.equal(mine[0], full[0])
        assert float((mine - full).abs().max()) < 1e-4 * max(1.0, float(full.abs().max()))


@pytest.mark.parametrize("form", ["ids", "first(3)", "start(0)", "start(2)", "every(2)", "layers"])
def test_what_is_restored_with_the_rows_of_its_pass_is_the_same_bit_for_bit(wide, form):
    """All of a prompt's tokens have become old, and all are restored at once: the shapes are those of the prompt."""
    ids = list(range(3, 90))
    full = logits(wide, "full", ids, [7])
    sequence = BoundedSequence(wide.adapter, parse(form, 6), lambda _: 0, rows=len(ids))
    assert torch.equal(sequence.forward(ids), full[0])
    assert sequence.cache.old == len(ids)
    assert torch.equal(sequence.forward([7]), full[1])


@pytest.mark.parametrize("form", LOSSY)
def test_approximate_forms_say_so(wide, words, form):
    chat = wide.chat()
    for turn in range(3):
        result = chat.send(words(12, seed=turn), max_new_tokens=4, strategy=residual(form))
    assert result.lineage == "approx:residual"
    assert nbkv.strategies.__class__ is not None
    exact = wide.generate(words(30), max_new_tokens=6)
    assert wide.generate(words(30), max_new_tokens=6, strategy="residual").token_ids == exact.token_ids
    assert result.tokens.reused + result.tokens.recomputed + result.tokens.fresh == result.tokens.prompt


def test_latents_of_full_rank_lose_nothing_but_rounding(session_of):
    session = session_of("llama", strategy="full")  # grouped queries: the space is no larger than K and V
    ids, steps = range(3, 60), [7, 9]
    full = logits(session, "full", ids, steps)

    def error(form):
        return float((logits(session, residual(form, 0.2), ids, steps) - full).abs().max() / full.abs().max())

    assert error("latent") < 1e-4
    assert error("latent") < error("latent(48)") < error("latent(24)")
    assert error("int8") < error("int4")


def kv_storages(heads, dim):
    """Return the bytes of all live tensors shaped like K or V of several tokens, counted by storage."""
    found = {}
    for thing in gc.get_objects():
        if type(thing) is torch.Tensor and thing.ndim == 4 and thing.shape[:2] == (1, heads) and thing.shape[-1] == dim:
            found[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
    return sum(found.values())


@pytest.mark.parametrize("keep", [0.25, 0.1])
@pytest.mark.parametrize("form", ["ids", "start(0)"])
def test_memory_over_twenty_turns_is_bounded(make_model, tokenizer, words, monkeypatch, form, keep):
    """Peak K/V and restorable form, by storages, against (keep + 1 / n_layers + 0.02) of a full cache.

    Now and then all tensors there are in the process are looked through: the meter must not miss any.
    """
    options = WIDE | {"num_hidden_layers": 12, "num_attention_heads": 8, "hidden_size": 32, "head_dim": 48}
    seen, sample, count = [], RestoringCache.sample, itertools.count()

    def look(cache, layer, *passing):
        sample(cache, layer, *passing)
        if next(count) % 211 == 0:
            seen.append(kv_storages(4, 48) / cache.peak)

    monkeypatch.setattr(RestoringCache, "sample", look)
    with nbkv.load(make_model("qwen3", **options), tokenizer=tokenizer, strategy=residual(form, keep)) as session:
        chat = session.chat()
        gc.collect()  # the self-check at load has left some behind
        results = [chat.send(words(12, seed=turn), max_new_tokens=2) for turn in range(20)]
        tokens = len(results[-1].prompt_ids) + len(results[-1].token_ids) - 1
        full = tokens * all_kv_bytes(session.adapter)
        held = parse(form, 12).token_bytes(session.adapter)
    peak, last = max(result.kv_bytes["peak"] for result in results), results[-1].kv_bytes
    assert peak <= (keep + 1 / 12 + 0.02) * full
    assert last["working"] <= keep * full
    assert held * tokens <= last["restorable"] <= held * (tokens + 64 * 20)
    assert 0.5 < max(seen) <= 1


@pytest.mark.parametrize("form", [*EXACT, "int8", "int4", "latent(24)", "latent(24, 8)"])
def test_printed_bytes_are_the_bytes_allocated(wide, form):
    adapter, known = wide.adapter, parse(form, 6)
    sequence = random_sequence(adapter, known, 639)  # 640 tokens: whole blocks
    kept = sum(
        layer.window[0].shape[-2] * all_kv_bytes(adapter) // 6 for layer in sequence.cache.layers if layer.keeps_all
    )
    token = known.token_bytes(adapter)
    host = sum(source == "host" for source in known.sources) * all_kv_bytes(adapter) // 6
    # K/V on the host are those of 639 older tokens, in blocks of 64
    assert sequence.cache.beside() + kept == 640 * (token - host) + 640 * host


@pytest.mark.parametrize(
    ("form", "most"), [("layers", "1,028"), ("every(2)", None), ("start(3)", "644"), ("ids", None)]
)
def test_forms_that_cost_more_than_kv_are_refused_in_one_line(make_model, tokenizer, words, form, most):
    """One K/V head of 16: K and V of a layer take 128 bytes, its input 256."""
    with nbkv.load(make_model("llama", num_key_value_heads=1), tokenizer=tokenizer, strategy="full") as session:
        if most is None:
            assert session.generate(words(5), strategy=residual(form), max_new_tokens=1).text
            return
        line = rf"refused on .*: {most} bytes a token, more than the 512 bytes of its K/V \(form='ids' takes 4"
        with pytest.raises(UnsupportedModel, match=line):
            session.generate(words(5), strategy=residual(form), max_new_tokens=1)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("keep=0.0", "keep=0.0 is not accepted"),
        ("keep=0", "keep=0 is not accepted"),
        ("keep=1.5", "keep=1.5 is not accepted"),
        ("keep=True", "keep=True is not accepted"),
        ("rows=0", "rows=0 is not accepted"),
        ("form='idz'", "form='idz' is not accepted: form is one of auto, ids"),
        ("form='start'", "form='start' is not accepted"),
        ("form='latent(8, 5)'", "latents have 4 or 8 bits"),
    ],
)
def test_bad_options_are_one_line(wide, words, options, line):
    with pytest.raises(BadOption, match=line.replace("(", r"\(").replace(")", r"\)")):
        wide.generate(words(3), strategy=f"residual({options})")


def test_a_layer_that_is_not_there(wide, words):
    with pytest.raises(BadOption, match="between 0 and 5 here"):
        wide.generate(words(3), strategy=residual("start(6)"))


def test_branches_and_foreign_prompts_start_where_they_part(wide, words):
    spec = residual("layers", 0.3)
    shared = words(40)
    for seed in (1, 2, 1, 3):
        prompt = shared + words(6, seed=seed)
        mine = wide.generate(prompt, strategy=spec, max_new_tokens=5)
        assert mine.token_ids == wide.generate(prompt, max_new_tokens=5).token_ids
    assert mine.tokens.reused == 41
    assert wide.generate(words(9, seed=8), strategy=spec, max_new_tokens=2).tokens.reused == 1  # BOS
    wide.store.clear()
    assert wide.generate(words(9, seed=8), strategy=spec, max_new_tokens=2).tokens.reused == 0


def test_a_comparison_leaves_what_is_held_alone(wide, words):
    spec = residual("layers", 0.3)
    wide.generate(words(40), strategy=spec, max_new_tokens=3)
    held = wide._ctx.scratch["residual"]
    before = [layer.window[0].clone() for layer in held.sequence.cache.layers], held.sequence.length
    wide.compare(words(40) + words(5, seed=3), ["full", spec], repeat=1, max_new_tokens=4)
    assert wide._ctx.scratch["residual"] is held
    assert held.sequence.length == before[1]
    assert all(
        torch.equal(layer.window[0], was) for layer, was in zip(held.sequence.cache.layers, before[0], strict=True)
    )


def test_what_is_interrupted_is_not_gone_on_with(wide, words):
    spec = residual("ids", 0.3)
    wide.generate(words(40), strategy=spec, max_new_tokens=3)
    stream = wide.stream(words(40) + words(4, seed=1), strategy=spec, max_new_tokens=6)
    for _ in stream:
        wide.stop()
    prompt = words(40) + words(4, seed=1) + words(4, seed=2)
    expected = wide.generate(prompt, max_new_tokens=5).token_ids
    assert wide.generate(prompt, strategy=spec, max_new_tokens=5).token_ids == expected


@pytest.mark.parametrize("form", ["ids", "layers", "mix(3)"])
def test_what_is_let_go_is_freed_at_once(wide, words, form):
    gc.collect()
    gc.disable()
    try:
        wide.generate(words(40), strategy=residual(form), max_new_tokens=3)
        sequence = wide._ctx.scratch["residual"].sequence
        tensors = [weakref.ref(side) for layer in sequence.cache.layers for side in layer.window]
        del sequence
        wide.store.clear()
        assert not any(ref() is not None for ref in tensors)
    finally:
        gc.enable()


def test_auto_measures_once_and_takes_what_was_picked(wide, words):
    spec = residual("auto", 0.3)
    first = wide.generate(words(30), strategy=spec, max_new_tokens=3)
    held = wide._ctx.scratch["residual"].sequence.form
    assert held.exact
    assert held.device_bytes(wide.adapter) <= all_kv_bytes(wide.adapter) / 2 + 4
    assert first.token_ids == wide.generate(words(30), max_new_tokens=3).token_ids
    name = next(name for name in wide._ctx.verdicts._entries if name.startswith("restoring@"))
    wide._ctx.verdicts.put(name, "every(3)")
    wide.store.clear()
    wide.generate(words(30), strategy=spec, max_new_tokens=3)
    assert wide._ctx.scratch["residual"].sequence.form.spec == "every(3)"
