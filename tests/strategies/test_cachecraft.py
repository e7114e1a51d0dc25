"""What is Cache-Craft's own: the attention statistics of chunks, and the variant that is chosen."""

from __future__ import annotations

import pytest
import torch

from nbkv.context import Request
from nbkv.errors import BadOption
from nbkv.result import Provenance
from nbkv.strategy import parse


def variants(session):
    return session._ctx.scratch.get("cachecraft", ())


def note(result):
    return next(each for each in result.notes if each.startswith("CFO by chunk: "))


# the statistics


def test_attention_is_what_the_model_paid(make_model, tokenizer, words):
    import nbkv

    model = make_model("llama")
    with nbkv.load(model, tokenizer=tokenizer) as session:
        chunk = session.chunk(words(12, seed=1), name="c")
        first, between = words(5, seed=2), words(4, seed=3)
        result = session.generate(
            [first, chunk, between, chunk, words(3, seed=4)], strategy="cachecraft(budget=1)", max_new_tokens=1
        )
        earlier, later = variants(session)
        model.set_attn_implementation("eager")
        with torch.no_grad():
            ids = torch.tensor([result.prompt_ids])
            weights = torch.stack(model(ids, output_attentions=True).attentions).mean(dim=(0, 2))[0]

    assert [len(one.before) for one in (earlier, later)] == [1, 3]
    assert (earlier.base, later.base) == (6, 22)
    rows = weights[22:34]
    expected = torch.stack([rows[:, 1:6].sum(1), rows[:, 6:18].sum(1), rows[:, 18:22].sum(1)], dim=1)
    assert torch.allclose(later.inter, expected, atol=1e-5)
    assert torch.allclose(later.intra, rows[:, 22:34].sum(1), atol=1e-5)
    assert torch.allclose(earlier.inter[:, 0], weights[6:18, 1:6].sum(1), atol=1e-5)


def test_rows_that_did_not_run_looked_inside_or_keep_what_was_known(session_of, words):
    session = session_of(strategy="cachecraft")
    chunk = session.chunk(words(12, seed=1), name="c")
    session.generate([words(5, seed=2), chunk, words(3, seed=3)], max_new_tokens=1)
    (first,) = variants(session)

    assert (first.inter[:6] > 0).all()  # a canonical chunk's tokens tie: the first half ran
    assert (first.inter[6:] == 0).all()
    assert torch.allclose(first.intra[6:], (first.inter[:6].sum(1) + first.intra[:6]).mean())

    session.generate([words(5, seed=4), words(5, seed=2), chunk, words(3, seed=3)], max_new_tokens=1)
    assert len(variants(session)) == 2


# the choice


def test_the_same_prompt_again_is_taken_as_it_was(session_of, words):
    session = session_of(strategy="cachecraft")
    chunk = session.chunk(words(20, seed=1), name="c")
    prompt = [words(6, seed=2), chunk, words(5, seed=3)]
    first = session.generate(prompt, max_new_tokens=8)
    (one,) = variants(session)
    again = session.generate(prompt, max_new_tokens=8)
    (same,) = variants(session)

    assert note(first) == "CFO by chunk: c 0.50"
    assert first.tokens.recomputed == 10
    assert note(again) == "CFO by chunk: c 0.00 (harvested)"
    assert again.tokens.recomputed == 0
    assert again.token_ids == first.token_ids
    assert same.kv is one.kv
    assert same.uses == 2
    assert session.generate(prompt, max_new_tokens=8).token_ids == first.token_ids


def test_surroundings_decide_which_variant(session_of, words):
    session = session_of(strategy="cachecraft")
    a, b, c = (session.chunk(words(20, seed=seed), name=name) for seed, name in enumerate("abc"))
    question = words(4, seed=9)
    session.generate([a, b, question], strategy="cachecraft(budget=1)", max_new_tokens=1)

    def chosen(*parts):
        return note(session.generate([*parts, question], max_new_tokens=1)).removeprefix("CFO by chunk: ")

    def apart(*parts):
        session._ctx.scratch["cachecraft"] = first
        return chosen(*parts)

    first = variants(session)
    # the prompt began with a, whose canonical KV is exact there: only b is harvested
    assert [one.before for one in first] == [(a.token_ids,)]
    assert apart(a, b) == "b 0.00 (harvested)"
    assert apart(c, b) == "b 0.50"  # beta 0: less fits than with nothing before
    assert apart(a, c, b) == "c 0.50, b 0.00 (harvested)"  # all that b looked at is there
    assert apart(words(3, seed=8), b) == "b 0.50"


def test_a_variant_is_moved_to_where_it_is_used(session_of, words):
    session = session_of()
    a, b, c = (session.chunk(words(20, seed=seed), name=name) for seed, name in enumerate("abc"))
    session.generate([a, b, words(4, seed=9)], strategy="cachecraft(budget=1)", max_new_tokens=1)
    (one,) = variants(session)
    request = Request(session._prompt([a, c, b, words(4, seed=9)]), 1, keep=False)
    prefilled = parse("cachecraft").prefill(request, session._ctx.for_request())
    held, at = prefilled.cache.read(41, 61), torch.arange(20)
    moved = session.adapter.rope.move(one.kv, at + one.base, at + 41)

    assert (one.base, (prefilled.provenance[41:61] == Provenance.CHUNK).all()) == (21, True)
    for layer in range(4):
        assert torch.equal(held.keys[layer], moved.keys[layer])
        assert torch.equal(held.values[layer], one.kv.values[layer])


def test_the_tokens_that_looked_outside_most_are_recomputed(session_of, words):
    session = session_of()
    a, b = (session.chunk(words(20, seed=seed), name=name) for seed, name in enumerate("ab"))
    session.generate([a, b, words(4, seed=9)], strategy="cachecraft(budget=1)", max_new_tokens=1)
    (one,) = variants(session)
    result = session.generate([a, words(4, seed=9), b, "w1"], strategy="cachecraft(budget=0.3)", max_new_tokens=1)
    again = [int(row) - 25 for row in (result.provenance == Provenance.RECOMPUTED).nonzero()[0]]

    assert again == sorted(one.inter.sum(dim=1).topk(6).indices.tolist())


def test_a_budget_is_kept_to(session_of, words):
    session = session_of()
    a, b = (session.chunk(words(20, seed=seed), name=name) for seed, name in enumerate("ab"))
    prompt = ["w1 w2 w3", a, "w4", b, words(4, seed=9)]
    for budget in (0, 0.1, 0.25, 0.8, 1):
        tokens = session.generate(prompt, strategy=f"cachecraft(budget={budget})", max_new_tokens=1).tokens
        assert tokens.recomputed == round(40 * budget)


# what is kept


def test_of_each_chunk_only_so_many(session_of, words):
    session = session_of(strategy="cachecraft(variants=2)")
    chunk = session.chunk(words(20, seed=1), name="c")
    often = [words(6, seed=2), chunk, words(5, seed=3)]
    for _ in range(4):
        session.generate(often, max_new_tokens=1)
    for seed in range(10, 14):
        session.generate([words(6, seed=seed), chunk, words(5, seed=3)], max_new_tokens=1)
        assert len(variants(session)) == 2

    assert max(one.uses for one in variants(session)) == 4  # the one used often stayed
    session.generate([words(6, seed=20), chunk, "w1"], strategy="cachecraft(variants=0)", max_new_tokens=1)
    assert len(variants(session)) <= 2


@pytest.mark.parametrize(
    "spec", ["budget=1.5", "alpha=-1", "alpha='x'", "variants=-1", "variants=2.5", "store_share=2", "nothing=1"]
)
def test_options_out_of_range(spec):
    with pytest.raises(BadOption):
        parse(f"cachecraft({spec})")


def test_its_first_option_is_alpha():
    assert parse("cachecraft(2)").alpha == 2
    assert parse("cachecraft(recompute_ratio=0.3)").budget == 0.3
