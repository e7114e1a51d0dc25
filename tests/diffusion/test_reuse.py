"""Reuse on block-diffusion models: prefixes by whole blocks, chunks at their place in a block."""

from __future__ import annotations

import pytest
import torch

import nbkv
from nbkv.errors import UnsupportedModel
from nbkv.families.routing.experience import noted
from nbkv.registry import strategies as registry
from nbkv.strategy import parse


@pytest.mark.parametrize("block", [4, 8])
def test_prefixes_equal_full_and_are_whole_blocks(sdar, words, block):
    session = sdar(block)
    for n, seed in ((13, 1), (13, 2), (16, 1), (5, 3), (24, 1), (16, 1)):
        prompt = words(9) + words(n, seed=seed)
        got = session.generate(prompt, max_new_tokens=7, strategy="prefix")
        full = session.generate(prompt, max_new_tokens=7, strategy="full")

        assert got.token_ids == full.token_ids
        assert got.tokens.reused % block == 0
        assert sum((got.tokens.reused, got.tokens.recomputed, got.tokens.fresh)) == got.tokens.prompt
    assert got.tokens.reused == 25 // block * block


def test_nothing_is_learnt_of_passes_from_first_tokens_that_take_a_block(sdar, words):
    session = sdar(4)
    for strategy in ("prefix", "full"):
        session.generate(words(20), max_new_tokens=4, strategy=strategy)
    assert noted(session._open().for_request()) == []


def test_a_block_with_one_other_token_is_not_reused(sdar, words):
    """The first tokens of a block have other KV where its last one differs."""
    session = sdar(4, strategy="prefix")
    session.generate("w1 w2 w3 w4 w5 w6 w7 w8", max_new_tokens=1)
    other = session.generate("w1 w2 w3 w4 w5 w6 w7 w9", max_new_tokens=5)

    assert other.tokens.reused == 4
    assert other.token_ids == session.generate("w1 w2 w3 w4 w5 w6 w7 w9", max_new_tokens=5, strategy="full").token_ids
    back = session.generate("w1 w2 w3 w4 w5 w6 w7 w8 w1", max_new_tokens=5)
    assert back.tokens.reused == 8


def test_kept_kv_is_that_of_clean_tokens(sdar, words):
    """What an answer leaves in the store are the KV of one pass over prompt and answer, not those of its masks."""
    session = sdar(4, strategy="prefix")
    result = session.generate(words(9), max_new_tokens=15)
    ids = (*result.prompt_ids, *result.token_ids)[:20]
    cache = session.adapter.new_cache()
    session.adapter.prefill(ids, cache)
    ctx = session._open()
    with ctx.store.reading(ctx.for_request().space(), ids) as pieces:
        assert sum(kv.length for _, kv in pieces) == 20
        for at, kv in pieces:
            wanted = cache.read(at, at + kv.length)
            for got, want in zip((*kv.keys, *kv.values), (*wanted.keys, *wanted.values), strict=True):
                assert float((got - want).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", ["sdar", "fast_dllm"])
def test_chats_reuse_their_answers(request, words, kind):
    session = request.getfixturevalue(kind)(8)
    chat = session.chat()
    for turn in range(4):
        result = chat.send(words(5, seed=turn), max_new_tokens=11, strategy="prefix")
        again = session.generate([*_turns(chat)], max_new_tokens=11, strategy="full")

        assert result.token_ids == again.token_ids
        if turn:
            before = chat.results[turn - 1]
            assert result.prompt_ids[: len(before.prompt_ids)] == before.prompt_ids
            held = (len(before.prompt_ids) + len(before.token_ids)) // 8 * 8
            assert held - 8 <= result.tokens.reused <= held


def _turns(chat):
    return [part for turn in chat._turns[:-1] for part in turn.parts]


def test_warm_and_full_hits(sdar, fast_dllm, words):
    for session, again in ((sdar(4), 8), (fast_dllm(8, 4), 0)):
        first = session.generate(words(8), max_new_tokens=5)
        second = session.generate(words(8), max_new_tokens=5)

        assert first.token_ids == second.token_ids
        assert second.tokens.reused == again
        assert second.tokens.recomputed == 8 - again


def test_two_block_sizes_of_one_model_share_nothing(make_model, make_tokenizer, words):
    model = make_model("qwen3", block_size=8, mask_token_id=198)
    store = nbkv.load(model, tokenizer=make_tokenizer(bos=False)).store
    big, small = (
        nbkv.load(model, tokenizer=make_tokenizer(bos=False), block_size=size, store=store) for size in (8, 4)
    )
    big.generate(words(24), max_new_tokens=3)
    got = small.generate(words(24), max_new_tokens=3)

    assert got.tokens.reused == 0
    assert big.generate(words(24), max_new_tokens=3).tokens.reused == 24


@pytest.fixture(params=["cacheblend", "epic", "prophet", "passage", "influence"])
def blend(request):
    return request.param


def test_chunks_keep_their_place_in_a_block(sdar, words, blend):
    session = sdar(4)
    chunk = session.chunk(words(21), name="c")
    for lead in (3, 7, 4, 3):
        prompt = [words(lead, seed=lead), chunk, words(6, seed=9)]
        result = session.generate(prompt, max_new_tokens=6, strategy=blend)
        full = session.generate(prompt, max_new_tokens=6, strategy="full")

        assert full.prompt_ids == result.prompt_ids
        assert sum((result.tokens.reused, result.tokens.recomputed, result.tokens.fresh)) == result.tokens.prompt
        begin, stop = -(-lead // 4) * 4, (lead + 21) // 4 * 4
        reused = [i for i, source in enumerate(result.provenance) if source in {1, 2}]
        assert all(begin <= at < stop for at in reused)
    assert result.tokens.reused > 0  # the place was met before


@pytest.mark.parametrize("block", [4, 8])
def test_chunks_at_the_full_budget_equal_full(sdar, words, blend, block):
    session = sdar(block)
    one, two = (session.chunk(words(n, seed=n), name=f"c{n}") for n in (19, 26))
    prompt = [words(5, seed=3), one, two, words(7, seed=4), one, words(2, seed=6)]
    table = session.compare(prompt, ["full", f"{blend}(budget=1.0)"], repeat=1, max_new_tokens=9)

    assert table.results[1].fidelity.kl < 1e-6
    assert table.results[1].fidelity.top1 == 1
    assert table.results[1].token_ids == table.results[0].token_ids


def test_the_first_chunk_behind_the_beginning_is_a_prefix(make_model, make_tokenizer, words, blend):
    with nbkv.load(
        make_model("qwen3", block_size=4, mask_token_id=198), tokenizer=make_tokenizer(), strategy=blend
    ) as session:
        chunk = session.chunk(words(30), name="c")
        got = session.generate([chunk, words(5, seed=1)], max_new_tokens=6)

        assert got.token_ids == session.generate([chunk, words(5, seed=1)], max_new_tokens=6, strategy="full").token_ids
        assert got.tokens.reused == 28


def test_placed_kv_are_those_made_at_that_place(sdar, words):
    """A chunk moved by whole blocks has the keys it would have there behind the same sink."""

    session = sdar(4)
    chunk = session.chunk(words(12), name="c")
    paths = [chunk.path(start, 4) for start in (5, 9, 6)]

    assert paths[0] == paths[1]
    assert len(paths[2]) == len(paths[0]) + 1
    assert paths[2][-12:] == chunk.token_ids


def test_a_prompt_shorter_than_a_block(sdar, words, blend):
    session = sdar(8)
    chunk = session.chunk(words(3), name="c")
    got = session.generate([chunk, words(2, seed=1)], max_new_tokens=9, strategy=blend)

    assert got.token_ids == session.generate([chunk, words(2, seed=1)], max_new_tokens=9, strategy="full").token_ids


@pytest.mark.parametrize("name", ["cachecraft", "kvlink", "kvshare"])
def test_what_cannot_be_right_is_refused_by_name(sdar, words, name):
    assert "causal" in registry.get(name).needs
    with pytest.raises(UnsupportedModel, match=rf"{name} cannot serve .*: it decodes in blocks of 4"):
        sdar(4).generate(words(5), strategy=name)


@pytest.mark.parametrize("name", registry.names())
def test_every_strategy_is_right_or_refuses(sdar, words, name):
    session = sdar(4)
    strategy, chunk = parse(name).at_full_budget(), session.chunk(words(18), name="c")
    if strategy is None:
        strategy = parse(name)
    if "causal" in strategy.needs:
        with pytest.raises(UnsupportedModel, match=f"{name} cannot serve Qwen3ForCausalLM: it decodes in blocks of 4"):
            strategy.check(session.adapter)
        return
    for prompt in ([words(5, seed=1), chunk, words(6, seed=2)], [words(5, seed=1), chunk, words(3, seed=3)]):
        got = session.generate(prompt, max_new_tokens=9, strategy=strategy)
        full = session.generate(prompt, max_new_tokens=9, strategy="full")

        assert got.token_ids == full.token_ids
        assert sum((got.tokens.reused, got.tokens.recomputed, got.tokens.fresh)) == got.tokens.prompt


def test_auto_serves_and_measures(sdar, words):
    session = sdar(4)
    chunk = session.chunk(words(60), name="c")
    for strategy in ("auto", "auto(max_kl=0.5)"):
        for seed in range(2):
            prompt = [words(7, seed=seed), chunk, words(4, seed=seed)]
            got = session.generate(prompt, max_new_tokens=5, strategy=strategy)
            if got.lineage == "exact":
                full = session.generate(prompt, max_new_tokens=5, strategy="full")
                assert got.token_ids == full.token_ids
            assert any(note.startswith("auto:") for note in got.notes)


def test_fidelity_of_a_block_is_its_first_pass(sdar, words):
    session = sdar(8)
    chunk = session.chunk(words(30), name="c")
    prompt = [words(9, seed=1), chunk, words(3, seed=2)]
    loose = session.generate(prompt, strategy="epic(first_k=0)", fidelity=True, max_new_tokens=4).fidelity
    exact = session.generate(prompt, strategy="prefix", fidelity=True, max_new_tokens=4).fidelity

    assert exact.kl < 1e-6
    assert exact.top1 == 1
    assert exact.n == 32
    assert loose.kl > 1e-4


def test_verify_checks_against_the_model_s_own_forward(sdar, fast_dllm, monkeypatch):
    for session in (sdar(4), sdar(32), fast_dllm(16, 4)):
        report = session.verify(["prefix", "cacheblend", "kvlink"])

        assert report.ok
        assert any("refused" in row["note"] for row in report.rows)
    adapter = session.adapter
    own = type(adapter).forward

    def wrong(self, ids, cache, **kwargs):
        return own(self, ids, cache, **kwargs) + (0.01 if self.walk is not None else 0.0)

    monkeypatch.setattr(type(adapter), "forward", wrong)
    assert not session.verify("prefix").ok


def test_a_store_too_small_is_no_error(sdar, words):
    session = sdar(4, strategy="prefix", store="memory?device=40KiB")
    for seed in (0, 1, 0, 1):
        got = session.generate(words(60, seed=seed), max_new_tokens=5)
        assert got.token_ids == session.generate(words(60, seed=seed), max_new_tokens=5, strategy="full").token_ids
    assert session.store.nbytes <= 40 * 1024
    assert torch.is_tensor(session.adapter.tensor([1]))
