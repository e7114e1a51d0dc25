"""Long branches over one prefix: held once, copied never, and answered as the full prompt would be."""

from __future__ import annotations

import pytest

import nbkv
from nbkv.models.work import Work
from nbkv.stores import prefix_sharing

PREFIX, TAIL = 600, 700


@pytest.fixture
def session(make_model, tokenizer):
    with nbkv.load(make_model("llama", max_position_embeddings=4096), tokenizer=tokenizer, strategy="prefix") as opened:
        yield opened


def token_bytes(session):
    found = session.adapter.capabilities
    return sum(h * (k + v) * 4 for h, k, v in zip(found.kv_heads, found.key_dim, found.value_dim, strict=True))


def test_branches_answer_as_full_and_hold_the_prefix_once(session, words):
    shared, tails = words(PREFIX), [f" w{seed}" + words(TAIL - 1, seed=seed) for seed in range(6)]
    for tail in tails:
        result = session.generate(shared + tail, max_new_tokens=6)
        assert result.token_ids == session.generate(shared + tail, strategy="full", max_new_tokens=6).token_ids
        assert not any("copied" in note for note in result.notes)
    assert result.tokens.reused == PREFIX + 1
    assert result.kv_bytes == {"memory": (PREFIX + 1 + TAIL + 5) * token_bytes(session)}
    assert "reads 601 tokens of KV where another branch keeps it: attention in 2 parts" in result.notes

    tokens = PREFIX + 1 + 6 * (TAIL + 5)
    assert session.store.figures()[0]["tokens"] == tokens
    session.store._buffers.fit()  # frees what buffers allocate to grow in
    assert session.store.nbytes <= (tokens + 6 * 64) * token_bytes(session)


def test_a_chat_goes_on_in_its_branch(session, words):
    shared = words(PREFIX)
    session.generate(shared + words(TAIL, seed=1), max_new_tokens=1)
    prompt = shared + words(TAIL, seed=2)
    for turn in range(3):
        result = session.generate(prompt, max_new_tokens=6)
        assert result.token_ids == session.generate(prompt, strategy="full", max_new_tokens=6).token_ids
        assert sum(storage.in_buffer for storage in session.store._buffers) == 2
        prompt = prompt + result.text + words(5, seed=turn)
    assert result.tokens.reused >= PREFIX + TAIL
    assert result.tokens.reused + result.tokens.recomputed + result.tokens.fresh == result.tokens.prompt


def test_a_branch_is_as_close_to_full_as_an_exact_strategy_must_be(session, words):
    shared = words(PREFIX)
    session.generate(shared + words(TAIL, seed=1), max_new_tokens=1)
    table = session.compare(shared + words(TAIL, seed=2), ["full", "prefix"], repeat=1, max_new_tokens=4)

    assert table.results[1].tokens.reused == PREFIX + 1
    assert table.results[1].fidelity.kl < 1e-6
    assert table.results[1].fidelity.top1 == 1


def test_an_interruption_leaves_the_store_and_the_model_as_they_were(session, words):
    shared = words(PREFIX)
    session.generate(shared + words(TAIL, seed=1), max_new_tokens=1)
    before, own = session.store.figures()[0]["tokens"], session.adapter.config._attn_implementation

    class Stop(Exception):
        pass

    def fail(index, rows):
        if index == 2:
            raise Stop

    prompt = shared + words(TAIL, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nbkv.context.Context.work", lambda _: Work(on_layer=fail))
        with pytest.raises(Stop):
            session.generate(prompt, max_new_tokens=2)
    assert session.adapter.config._attn_implementation == own
    assert session.store.figures()[0]["tokens"] == before
    assert not any(buffer.leased or buffer.read_end for buffer in session.store._buffers)
    result = session.generate(prompt, max_new_tokens=4)
    assert result.token_ids == session.generate(prompt, strategy="full", max_new_tokens=4).token_ids


def test_a_chunk_that_branches_off_is_encoded_in_parts(session, words):
    shared = words(PREFIX)
    session.generate(shared + words(TAIL, seed=1), max_new_tokens=1)
    chunk = session.chunk(shared + words(50, seed=2), name="c")
    prompt = [chunk, words(5, seed=3)]
    result = session.generate(prompt, max_new_tokens=4)
    assert result.token_ids == session.generate(prompt, strategy="full", max_new_tokens=4).token_ids


def test_where_a_model_cannot_the_prefix_is_copied(make_model, tokenizer, words):
    model = make_model("gpt2", n_positions=2048)
    with nbkv.load(model, tokenizer=tokenizer, strategy="prefix") as session:
        shared = words(PREFIX)
        session.generate(shared + words(TAIL, seed=1), max_new_tokens=1)
        result = session.generate(shared + words(TAIL, seed=2), max_new_tokens=1)
    assert f"copied {result.tokens.reused} tokens of KV to branch off a shared prefix" in result.notes


def test_parts_are_not_for_short_prefixes(session, words):
    shared = words(prefix_sharing.PART // 2)
    session.generate(shared + words(TAIL, seed=1), max_new_tokens=1)
    result = session.generate(shared + words(TAIL, seed=2), max_new_tokens=1)
    assert any("copied" in note for note in result.notes)
