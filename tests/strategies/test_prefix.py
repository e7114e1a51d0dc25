"""What RadixAttention claims for prefix reuse, at the size the benchmarks use."""

from __future__ import annotations

import pytest

import nbkv

PREFIX, NEW = 2048, 32


@pytest.fixture
def session(make_model, tokenizer):
    model = make_model("llama", max_position_embeddings=4096)
    with nbkv.load(model, tokenizer=tokenizer, store="memory?device=2GiB") as opened:
        yield opened


def test_a_known_prefix_is_not_computed_again(session, words):
    shared = words(PREFIX - 1)
    session.generate(shared, max_new_tokens=1)
    result = session.generate(shared + words(NEW, seed=1), max_new_tokens=1)

    assert result.tokens.reused == PREFIX
    assert result.tokens.fresh == NEW
    assert result.compute.share == pytest.approx(NEW / (PREFIX + NEW))


def test_every_layer_runs_what_is_new_and_no_more(session, words):
    shared, ran = words(PREFIX - 1), []
    session.generate(shared, max_new_tokens=1)
    hooks = [
        layer.register_forward_pre_hook(lambda _, args: ran.append(args[0].shape[1]))
        for layer in session.adapter.walk._own
    ]
    session.generate(shared + words(NEW, seed=1), max_new_tokens=1)
    for hook in hooks:
        hook.remove()

    assert ran == [NEW] * session.adapter.n_layers


def test_branches_cost_their_tails_only(session, words):
    shared = words(PREFIX - 1)
    session.generate(shared, max_new_tokens=1)
    alone = session.store.nbytes
    for seed in range(1, 9):
        assert session.generate(shared + words(NEW, seed=seed), max_new_tokens=4).tokens.reused >= PREFIX

    assert session.store.nbytes - alone < 0.2 * alone


def test_an_order_that_differs_early_reuses_little(session, words):
    first, second = words(300, seed=1), words(300, seed=2)
    session.generate(first + second, max_new_tokens=1)

    assert session.generate(second + first, max_new_tokens=1).tokens.reused == 1


def test_an_answer_is_reused_like_a_prompt(session, words):
    first = session.generate(words(50), max_new_tokens=20)
    grown = nbkv.Chunk(
        name="all",
        text="",
        token_ids=(*first.prompt_ids[1:], *first.token_ids),
        sink=(),
        model=first.fingerprint,
    )

    assert session.generate([grown, words(5, seed=1)], max_new_tokens=1).tokens.reused == 51 + 19


def test_a_segment_plays_no_part_without_recurrent_layers_and_a_note_says_so(session, words):
    result = session.generate(words(50), strategy="prefix(segment=16)", max_new_tokens=1)

    assert "segment plays no part with this model: its K/V can be cut behind any token" in result.notes
