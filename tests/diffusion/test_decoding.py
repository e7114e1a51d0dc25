"""Block decoding against a plain loop that runs the whole sequence in each pass."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("block", [4, 8, 32])
def test_it_equals_a_plain_loop(sdar, words, reference, rule, block):
    session = sdar(block)
    n = 9 if block < 32 else 33
    for length in (1, block - 1, block, block + 1) if block < 32 else (1, 33):
        got = session.generate(words(length, seed=length), max_new_tokens=n, unmask=rule, strategy="full")

        assert len(got.prompt_ids) == length
        assert list(got.token_ids) == reference(session.adapter.model, got.prompt_ids, n, block, rule), length


@pytest.mark.parametrize("sizes", [(8, None), (32, 8)])
def test_shifted_logits_and_parts_of_blocks_equal_a_plain_loop(fast_dllm, words, reference, rule, sizes):
    block, sub = sizes
    session = fast_dllm(block, sub)
    for length in (1, block - 1, block, block + 1):
        got = session.generate(words(length, seed=length), max_new_tokens=12, unmask=rule, strategy="full")
        expected = reference(session.adapter.model, got.prompt_ids, 12, block, rule, shifted=True, sub=sub)

        assert list(got.token_ids) == expected, length


def test_eager_attention_and_half_precision(make_model, make_tokenizer, words, reference):
    import torch

    import nbkv

    told = {"block_size": 4, "mask_token_id": 198}
    eager = make_model("qwen3", attn_implementation="eager", **told)
    with nbkv.load(eager, tokenizer=make_tokenizer(bos=False)) as session:
        got = session.generate(words(9), max_new_tokens=9, unmask="static")

        assert list(got.token_ids) == reference(make_model("qwen3", **told), got.prompt_ids, 9, 4, "static")
    with nbkv.load(make_model("qwen3", **told).to(torch.bfloat16), tokenizer=make_tokenizer(bos=False)) as session:
        assert session.verify("prefix").ok


def test_the_answer_ends_at_eos_and_what_follows_is_dropped(sdar, words):
    session = sdar(8)
    free = session.generate(words(11), max_new_tokens=40, unmask="sequential")
    end = free.token_ids[9]
    cut = free.token_ids.index(end)
    session.adapter.model.generation_config.eos_token_id = end
    got = session.generate(words(11), max_new_tokens=40, unmask="sequential")

    assert got.finish_reason == "stop"
    assert got.token_ids == free.token_ids[: cut + 1]
    assert got.decoding["forwards"] < free.decoding["forwards"]


def test_passes_end_when_all_before_the_length_limit_stands(sdar, words):
    session = sdar(32)
    got = session.generate(words(32), max_new_tokens=3, unmask="sequential")

    assert len(got.token_ids) == 3
    assert got.finish_reason == "length"
    assert got.decoding["forwards"] == 3
    assert got.decoding["tokens_per_forward"] == 1


def test_stop_strings_and_streaming_by_block(sdar, words):
    session = sdar(4)
    whole = session.generate(words(8), max_new_tokens=16)
    stream = session.stream(words(8), max_new_tokens=16)
    pieces = list(stream)
    stopped = session.generate(words(8), max_new_tokens=16, stop=whole.text.split()[6])

    assert len(pieces) == 4
    assert "".join(pieces) == whole.text
    assert whole.text.startswith(stopped.text)
    assert whole.text.split()[6] not in stopped.text.split()
    assert stopped.finish_reason == "stop"


def test_forwards_and_tokens_per_forward_are_told(sdar, words):
    session = sdar(4)
    slow = session.generate(words(8), max_new_tokens=8, unmask="static")
    fast = session.generate(words(8), max_new_tokens=8, unmask="dynamic(threshold=0)")

    assert slow.decoding == {
        "block": 4, "unmask": "static", "blocks": 2, "forwards": 9, "tokens_per_forward": 8 / 9
    }  # fmt: skip
    assert fast.decoding["forwards"] == 3  # one pass a block, and one that keeps the first
    assert fast.to_dict()["decoding"]["tokens_per_forward"] == 8 / 3
    assert "2.67 tokens a forward" in repr(fast)


def test_sampling_draws_the_same_with_the_same_seed(sdar, words):
    session = sdar(4)
    ask = {"max_new_tokens": 12, "temperature": 1.0, "top_p": 0.9, "top_k": 20}
    first, again, other = (session.generate(words(9), seed=seed, **ask).token_ids for seed in (3, 3, 4))

    assert first == again
    assert first != other
    assert session.generate(words(9), seed=3, strategy="full", **ask).token_ids == first


def test_sampling_follows_the_model_s_own_distribution(sdar, words, plain_logits):
    """The first token drawn, over many seeds, against the softmax of the model's own logits."""
    import torch

    session = sdar(4, {"vocab_size": 199})
    ids = session.generate(words(4), max_new_tokens=1).prompt_ids
    logits = plain_logits(session.adapter.model, [*ids, 198, 198, 198, 198], 4)[4]
    logits[198] = float("-inf")
    chances = torch.softmax(logits / 0.5, dim=-1)
    n = 200
    drawn = [
        session.generate(words(4), max_new_tokens=1, temperature=0.5, seed=seed, unmask="sequential").token_ids[0]
        for seed in range(n)
    ]
    likely = int(chances.argmax())

    assert abs(drawn.count(likely) / n - float(chances[likely])) < 4 * (0.25 / n) ** 0.5


def test_repetition_penalty_sees_all_that_stands(sdar, words):
    session = sdar(4)
    got = session.generate(words(8), max_new_tokens=24, repetition_penalty=1e6, unmask="sequential")

    assert len(set(got.token_ids)) == 24
    assert not set(got.token_ids) & set(got.prompt_ids)


def test_the_mask_token_is_never_an_answer(sdar, words):
    session = sdar(4)
    import torch

    def prefer_mask(ids, scores):
        assert not (ids == 198).any()
        assert torch.isneginf(scores[:, 198]).all()
        return scores

    got = session.generate(words(9), max_new_tokens=12, logits_processor=[prefer_mask])

    assert 198 not in got.token_ids


def test_a_stopped_answer_keeps_whole_blocks(sdar, words):
    session = sdar(4, strategy="prefix")
    stream = session.stream(words(8), max_new_tokens=40)
    for _ in range(3):
        next(stream)
    session.stop()
    assert list(stream) == []
    result = stream.result

    assert result.finish_reason == "interrupted"
    assert len(result.token_ids) == 12
    again = session.generate([words(8), result, words(1, seed=5)], max_new_tokens=4)
    assert again.tokens.reused in {8 + 8, 8 + 12}
    assert (
        again.token_ids
        == session.generate([words(8), result, words(1, seed=5)], max_new_tokens=4, strategy="full").token_ids
    )


def test_layers_are_told_of_the_prompt_only(sdar, words):
    from nbkv.events import Layer, Token

    session, heard = sdar(4), []
    session.events.add(heard.append)
    session.generate(words(10), max_new_tokens=6)

    assert [event.rows for event in heard if isinstance(event, Layer)] == [8] * 4
    assert sum(isinstance(event, Token) for event in heard) == 6
