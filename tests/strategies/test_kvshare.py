"""What is KVShare's own: spans found without marks, and rows chosen where attention meets changed values."""

from __future__ import annotations

import pytest
import torch

import nbkv
from nbkv.context import Request
from nbkv.errors import BadOption
from nbkv.result import Provenance
from nbkv.strategies.kvshare import KVShare, deviation
from nbkv.strategy import parse


def rows(result, kind):
    return [int(row) for row in (result.provenance == kind).nonzero()[0]]


def opened(session, prompt, spec, tokens=4):
    request, ctx = Request(session._prompt(prompt), tokens, keep=False), session._ctx.for_request()
    strategy = parse(spec)
    return strategy, strategy.prefill(request, ctx), ctx


# spans


def test_runs_of_any_length_are_found_where_they_stand_now(session_of, words):
    session = session_of(strategy="kvshare(budget=0, decode_tokens=0)")
    one, two = words(37, seed=1), words(21, seed=2)
    first = session.generate(words(5, seed=3) + one + words(9, seed=4) + two + words(2, seed=5), max_new_tokens=1)
    assert first.tokens.reused == 0

    # other order, other places, nothing marked
    result = session.generate(words(3, seed=6) + two + words(4, seed=7) + one + words(2, seed=8), max_new_tokens=1)
    assert rows(result, Provenance.CHUNK) == [*range(4, 25), *range(29, 66)]
    assert result.tokens.fresh == 10


def test_their_kv_is_what_was_computed_there_moved_here(session_of, words):
    session = session_of(strategy="kvshare")
    span = words(30, seed=1)
    session.generate(words(5, seed=3) + span + words(2, seed=5), max_new_tokens=1)
    (earlier,) = session._ctx.scratch["kvshare"]
    spec = "kvshare(budget=0, decode_tokens=0)"
    _, prefilled, _ = opened(session, words(12, seed=6) + span + words(2, seed=8), spec)
    held, at = prefilled.cache.read(13, 43), torch.arange(30)
    moved = session.adapter.rope.move(earlier.kv[6:36], at + 6, at + 13)
    for layer in range(4):
        assert torch.equal(held.keys[layer], moved.keys[layer])
        assert torch.equal(held.values[layer], moved.values[layer])


def test_short_runs_are_left_alone(session_of, words):
    session = session_of()
    one = words(15, seed=1)
    session.generate(one, strategy="kvshare", max_new_tokens=1)
    moved = words(3, seed=2) + one
    assert session.generate(moved, strategy="kvshare", max_new_tokens=1).tokens.reused == 0
    session.store.clear()
    spec = "kvshare(shortest=8, budget=0, decode_tokens=0)"
    session.generate(one, strategy=spec, max_new_tokens=1)
    assert session.generate(moved, strategy=spec, max_new_tokens=1).tokens.reused == 14  # the last row always runs


def test_answers_are_reused_too(session_of, words):
    session = session_of(strategy="kvshare(budget=0, decode_tokens=0)")
    first = session.generate(words(6, seed=1), max_new_tokens=40)
    again = session.generate([words(3, seed=2), first.text, words(3, seed=4)], max_new_tokens=1)

    assert again.tokens.reused >= 30


def test_given_chunks_are_shared_as_an_earlier_prompt_had_them(session_of, words):
    session = session_of(strategy="kvshare(budget=0, decode_tokens=0)")
    chunk, rest = session.chunk(words(20, seed=1), name="c"), words(25, seed=2)
    session.generate(words(3, seed=3) + words(20, seed=1) + rest + words(2, seed=4), max_new_tokens=1)
    (earlier,) = session._ctx.scratch["kvshare"]
    spec, prompt = "kvshare(budget=0, decode_tokens=0)", [words(5, seed=5), chunk, words(9, seed=6), "w1"]
    _, own, _ = opened(session, prompt, spec)
    _, canonical, _ = opened(session, prompt, "epic(first_k=0)")
    at = torch.arange(20)
    moved = session.adapter.rope.move(earlier.kv[4:24], at + 4, at + 6)

    assert torch.equal(own.cache.read(6, 26).values[2], moved.values[2])
    assert torch.equal(own.cache.read(6, 26).keys[2], moved.keys[2])
    assert not torch.equal(own.cache.read(6, 26).values[2], canonical.cache.read(6, 26).values[2])
    whole = session.generate([words(5, seed=5), chunk, rest, words(2, seed=6)], max_new_tokens=1)
    assert rows(whole, Provenance.CHUNK) == list(range(6, 51))


def test_given_chunks_that_no_earlier_prompt_had_come_from_the_store(session_of, words):
    session = session_of(strategy="kvshare(budget=0, decode_tokens=0)")
    text = words(40, seed=1)
    chunk = session.chunk(text, name="c")
    half = " ".join(text.split()[:20])
    session.generate([words(3, seed=3), half, words(9, seed=4)], max_new_tokens=1)  # a run that covers half of it
    prompt = [words(5, seed=5), chunk, "w1"]
    _, own, _ = opened(session, prompt, "kvshare(budget=0, decode_tokens=0)")
    _, canonical, _ = opened(session, prompt, "epic(first_k=0)")

    assert all(map(torch.equal, own.cache.read(6, 46).keys, canonical.cache.read(6, 46).keys))


def test_a_prompt_that_only_goes_on_takes_the_place_of_the_one_before(session_of, words):
    session = session_of(strategy="kvshare")
    session.generate(words(20), max_new_tokens=1)
    session.generate(words(20) + words(20, seed=1), max_new_tokens=1)
    session.generate(words(30, seed=2), max_new_tokens=1)

    assert [len(one.ids) for one in session._ctx.scratch["kvshare"]] == [41, 31]


# which rows: the prefill stage


def test_the_score():
    received, moved = torch.tensor([0.5, 2.0, 0.0, 1.0]), torch.tensor([4.0, 0.5, 9.0, 3.0])

    assert deviation(received, moved).tolist() == [2.0, 1.0, 0.0, 3.0]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_scores_are_attention_received_times_changed_values(make_model, tokenizer, words, layer):
    model = make_model("llama")
    with nbkv.load(model, tokenizer=tokenizer) as session:
        chunk = session.chunk(words(30, seed=1), name="c")
        prompt = [words(8, seed=2), chunk, words(5, seed=3)]
        naive = opened(session, prompt, "epic(first_k=0)")[1].cache.read(9, 39).values[layer]
        full = opened(session, prompt, "full")[1].cache.read(9, 39).values[layer]
        _, prefilled, _ = opened(session, prompt, f"kvshare(check_layer={layer})")
        partial = prefilled.own
        moved = (naive - full).abs().sum(dim=(0, 2))
        model.set_attn_implementation("eager")
        with torch.no_grad():
            received = model(partial.ids[None], output_attentions=True).attentions[layer][0].sum(dim=(0, 1))

    assert torch.allclose(partial.found["moved"][9:39], moved, atol=1e-3, rtol=1e-3)
    chosen = (prefilled.provenance[9:39] == Provenance.RECOMPUTED).nonzero()[0]
    assert len(chosen) == 6
    assert chosen.tolist() == sorted((received[9:39] * moved).topk(6).indices.tolist())


def test_the_check_pass_is_counted_as_selection(session_of, words):
    session = session_of()
    chunk = session.chunk(words(30, seed=1), name="c")
    prompt = [words(8, seed=2), chunk, words(5, seed=3)]
    compute = session.generate(prompt, strategy="kvshare(decode_tokens=0)", max_new_tokens=6).compute

    # 43 of 44 rows through two of four layers, then the 13 that are new and 6 of 30
    assert compute.select == pytest.approx(2 * 43 / (4 * 44))
    assert compute.rows == pytest.approx(2 * 19 / (4 * 44))


# which rows: the decode stage


def test_each_decoded_token_has_some_more_recomputed(session_of, words):
    session = session_of()
    chunk = session.chunk(words(30, seed=1), name="c")
    prompt = [words(8, seed=2), chunk, words(5, seed=3)]

    def served(spec):
        session._ctx.scratch.clear()  # else it finds the prompt it has just served
        return session.generate(prompt, strategy=spec, max_new_tokens=6)

    served("kvshare")  # what stands before the chunk is in the store from now on
    plain, result = served("kvshare(decode_tokens=0)"), served("kvshare")

    assert plain.tokens.recomputed == 6
    assert result.tokens.recomputed == 6 + 3 * 5  # the last token is not run
    assert result.compute.rows == pytest.approx(plain.compute.rows + 15 * 4 / (4 * 44))
    every = served("kvshare(decode_tokens=7)")
    assert every.tokens.recomputed == 30


def test_they_are_those_the_token_attends_to_where_values_changed(make_model, tokenizer, words):
    model = make_model("llama")
    with nbkv.load(model, tokenizer=tokenizer) as session:
        chunk = session.chunk(words(30, seed=1), name="c")
        strategy, prefilled, ctx = opened(session, [words(8, seed=2), chunk, words(5, seed=3)], "kvshare(budget=0)")
        before = prefilled.provenance.copy()
        partial, weights = prefilled.own, []
        from nbkv.models.attention.intercept import watched

        twin = opened(session, [words(8, seed=2), chunk, words(5, seed=3)], "kvshare(budget=0)")[1]
        with watched(model.config, torch.tensor([0]), lambda seen: weights.append(seen.weights.sum(dim=(0, 1)))):
            expected = ctx.adapter.forward(torch.tensor([7]), twin.cache, start=44)[-1]
        got = strategy.step(7, 44, prefilled, ctx)

    assert torch.equal(got, expected)  # this token saw the rows as they were, the next one will not
    picked = (prefilled.provenance != before).nonzero()[0].tolist()
    scores = (weights[1][:44] * partial.found["moved"])[9:39]
    assert picked == sorted((9 + scores.topk(3).indices).tolist())


def test_rows_recomputed_while_decoding_become_what_full_has(session_of, words):
    session = session_of()
    chunk = session.chunk(words(30, seed=1), name="c")
    prompt = [words(8, seed=2), chunk, words(5, seed=3)]
    strategy, prefilled, ctx = opened(session, prompt, "kvshare(budget=0, decode_tokens=30)")
    full = opened(session, prompt, "full")[1].cache.read(9, 39)
    strategy.step(7, 44, prefilled, ctx)
    got = prefilled.cache.read(9, 39)
    for layer in range(4):
        assert torch.allclose(got.keys[layer], full.keys[layer], atol=1e-3, rtol=1e-3)
        assert torch.allclose(got.values[layer], full.values[layer], atol=1e-3, rtol=1e-3)


def test_fidelity_is_measured_with_the_decode_stage(session_of, words, monkeypatch):
    steps, own = [], KVShare.step
    monkeypatch.setattr(KVShare, "step", lambda self, *args: steps.append(args[1]) or own(self, *args))
    session = session_of()
    chunk = session.chunk(words(30, seed=1), name="c")
    session.compare([words(8, seed=2), chunk, words(5, seed=3)], ["kvshare"], repeat=1, max_new_tokens=2)

    assert steps == [44, *range(44, 44 + 31)]  # one answer of two tokens, then 32 of full's


@pytest.mark.parametrize("spec", ["budget=2", "decode_tokens=-1", "check_layer=1.5", "shortest=1", "store_share=-1"])
def test_options_out_of_range(spec):
    with pytest.raises(BadOption):
        parse(f"kvshare({spec})")


def test_its_first_option_is_the_budget():
    assert parse("kvshare(0.4)").budget == 0.4
