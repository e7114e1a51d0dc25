"""Prefix reuse on a model with recurrent layers: a turn costs its own tokens, and states what is said of them."""

from __future__ import annotations

import random

import pytest
import torch
import transformers

import nbkv

HISTORY, NEW = 2000, 24

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.FalconH1Config(
        vocab_size=199,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=8192,
        mamba_d_ssm=128,
        mamba_n_heads=8,
        mamba_d_head=16,
        mamba_d_state=16,
        mamba_n_groups=1,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    made = transformers.FalconH1ForCausalLM(config).eval()
    made.generation_config.eos_token_id = None
    return made


@pytest.fixture
def session_with(model, tokenizer):
    opened = []

    def open_session(store="memory?device=1GiB", strategy="prefix"):
        opened.append(nbkv.load(model, tokenizer=tokenizer, store=store, strategy=strategy))
        return opened[-1]

    yield open_session
    for session in opened:
        session.close()


def test_a_second_turn_on_a_long_history_computes_only_its_own_tokens(session_with, words):
    session = session_with()
    chat = session.chat()
    first = chat.send(words(HISTORY), max_new_tokens=8)
    second = chat.send(words(NEW, seed=1), max_new_tokens=2)
    known = len(first.prompt_ids) + len(first.token_ids) - 1  # the last token of the answer was not run yet

    assert second.tokens.reused == known >= HISTORY
    assert second.tokens.fresh == len(second.prompt_ids) - known
    assert second.tokens.recomputed == 0
    assert second.compute.share == pytest.approx(second.tokens.fresh / len(second.prompt_ids))
    assert session.generate(words(HISTORY), strategy="full", max_new_tokens=8).token_ids == first.token_ids


def test_the_same_prompt_again_runs_its_last_token(session_with, words):
    session = session_with()
    first = session.generate(words(100), max_new_tokens=4)
    again = session.generate(words(100), max_new_tokens=4)

    assert (again.tokens.recomputed, again.tokens.reused) == (1, 100)
    assert again.token_ids == first.token_ids
    assert not [note for note in again.notes if "run again" in note]


def test_segments_let_a_changed_prompt_go_on_from_before_the_change(session_with, words):
    session, random_words = session_with(strategy="prefix(segment=64)"), words(300)
    session.generate(random_words, max_new_tokens=2)
    changed = "".join(f" {word}" for word in random_words.split()[:200]) + words(100, seed=2)
    result = session.generate(changed, max_new_tokens=2)

    assert result.tokens.reused == 192  # three segments of 64
    assert result.tokens.recomputed == 201 - 192  # known up to BOS and 200 words, but no states there
    assert [note for note in result.notes if note.startswith("ran 9 known tokens again")]
    third = "".join(f" {word}" for word in random_words.split()[:200]) + words(100, seed=3)
    # nine tokens are too few for a checkpoint of their own
    assert session.generate(third, max_new_tokens=2).tokens.reused == 192


def test_a_long_prompt_is_cut_by_itself(session_with, words):
    session = session_with()
    session.generate(words(HISTORY + 100), max_new_tokens=1)

    # the prompt's end twice: before its last token, for the same prompt again, and behind it, since of an answer of one
    # token nothing was run
    stops = sorted(node.stop for tree in session.store._trees.values() for node in tree.nodes())
    assert stops == [1024, 2048, 2100, 2101]
    assert session.store.figures()[0]["state_bytes"] == 4 * session.adapter.capabilities.state_bytes


@pytest.mark.parametrize("device", ["300kB", "120kB", "30kB"])
def test_a_full_store_keeps_its_limit_and_gives_right_answers(session_with, device):
    session, draw = session_with(f"memory?device={device}"), random.Random(1)
    prompts, seen = [], 0
    for _ in range(12):
        begin = draw.choice(prompts)[: draw.randrange(20, 60)] if prompts and draw.random() < 0.7 else []
        prompts.append([*begin, *(f"w{draw.randrange(190)}" for _ in range(20))])
        text = " " + " ".join(prompts[-1])
        result = session.generate(text, max_new_tokens=2)
        assert result.token_ids == session.generate(text, strategy="full", max_new_tokens=2).token_ids
        assert session.store.nbytes <= session.store.limit
        seen += result.tokens.reused
    assert session.store.figures()[0]["evictions"] > 0
    assert seen > 0 or device == "30kB"


def test_branches_hold_the_attention_layers_kv_once(session_with, words):
    session = session_with()
    shared = words(600)
    for seed in range(1, 4):
        session.generate(shared + words(8, seed=seed), max_new_tokens=1)
    before, states = session.store.nbytes, session.store.figures()[0]["state_bytes"]
    for seed in range(4, 8):
        assert session.generate(shared + words(8, seed=seed), max_new_tokens=1).tokens.reused == 601
    grown = session.store.nbytes - before - (session.store.figures()[0]["state_bytes"] - states)

    assert grown < 0.2 * (before - states)


@pytest.mark.parametrize("segment", [-1, 1.5, True, "many"])
def test_a_segment_is_a_number_of_tokens(session_with, segment):
    with pytest.raises(nbkv.BadOption, match="segment"):
        session_with(strategy=f"prefix(segment={segment!r})")


def test_kv_bytes_hold_the_states_too(session_with, words):
    session = session_with()
    result = session.generate(words(50), max_new_tokens=1)
    found = session.adapter.capabilities
    per_token = sum(h * (k + v) for h, k, v in zip(found.kv_heads, found.key_dim, found.value_dim, strict=True)) * 4

    assert result.kv_bytes == {"memory": 51 * per_token + found.state_bytes}
