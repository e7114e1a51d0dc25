"""flashblock: what it must equal, when it reuses, what it says, and what it leaves behind."""

from __future__ import annotations

import pytest
import torch

import nbkv
from nbkv.errors import BadOption, UnsupportedModel
from nbkv.events import Fallback
from nbkv.models.diffusion.block import Block
from nbkv.strategy import Prefilled, parse


def spec(**options):
    """flashblock as the paper has it, whatever it costs: heads and switch have tests of their own."""
    options = {"threshold": None, "min_gain": 0} | options
    return f"flashblock({', '.join(f'{name}={value!r}' for name, value in options.items())})"


def ask(session, prompt, strategy, n=16, unmask="static"):
    return session.generate(prompt, strategy=strategy, max_new_tokens=n, unmask=unmask)


def test_with_a_refresh_in_every_pass_it_equals_a_plain_loop(sdar, words, reference, rule):
    session = sdar(8)
    for length in (3, 8, 21):
        got = ask(session, words(length, seed=length), spec(tau=1), 20, rule)

        assert list(got.token_ids) == reference(session.adapter.model, got.prompt_ids, 20, 8, rule)
        assert got.decoding["reuse_rate"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"tau": 1, "density": 0.3},
        {"tau": 1, "density": 0.3, "residual": False},
        {"tau": 4, "threshold": 1.0},  # no head keeps that
        {"tau": 1, "revealed": "recompute"},
    ],
)
def test_settings_that_keep_nothing_equal_full(sdar, words, options):
    session = sdar(8)
    for length in (5, 26):
        prompt = words(length, seed=length)
        expected = ask(session, prompt, "full", 40).token_ids

        assert ask(session, prompt, spec(**options), 40).token_ids == expected


@pytest.mark.parametrize(
    ("tau", "block", "passes"),
    [
        (2, 4, {"refreshed": 2, "reused": 2}),  # 1 token a pass: every other pass
        (3, 4, {"refreshed": 2, "reused": 2}),
        (2, 8, {"refreshed": 4, "reused": 4}),
        (3, 8, {"refreshed": 3, "reused": 5}),
        (9, 8, {"refreshed": 1, "reused": 7}),
    ],
)
def test_it_refreshes_once_tau_tokens_were_revealed(sdar, words, tau, block, passes):
    session = sdar(block)
    got = ask(session, words(2 * block), spec(tau=tau), 2 * block)

    assert got.decoding["passes"] == {kind: 2 * count for kind, count in passes.items()}
    assert got.decoding["reuse_rate"] == passes["reused"] / block
    assert got.decoding["forwards"] == 2 * block + 1  # and one clean pass between the blocks


def test_it_cannot_reuse_where_tau_tokens_are_revealed_in_a_pass(sdar, words):
    got = ask(sdar(8), words(16), spec(tau=2), 16, "static(steps=4)")

    assert got.decoding["passes"] == {"refreshed": 8}


def test_the_same_seed_gives_the_same_answer(sdar, words):
    options = {"strategy": spec(tau=3), "max_new_tokens": 16, "temperature": 1.0, "seed": 3, "unmask": "static"}
    answers = {session.generate(words(20), **options).token_ids for session in (sdar(8), sdar(8)) for _ in range(2)}

    assert len(answers) == 1


def test_the_first_block_of_all_has_nothing_outside(sdar, words):
    session = sdar(8)
    got = ask(session, words(2), spec(tau=8), 6)

    assert got.token_ids == ask(session, words(2), "full", 6).token_ids
    assert got.decoding["reuse_rate"] == 0


def test_reuse_changes_something_and_says_how_much(sdar, words):
    session = sdar(8)
    tables = [
        session.compare(words(40, seed=seed), ["full", spec(tau=8)], repeat=1, max_new_tokens=16) for seed in (1, 2)
    ]
    found = ask(session, words(40), spec(tau=3), 32).decoding

    assert any(t.results[0].token_ids != t.results[1].token_ids or t.results[1].fidelity.top1 < 1 for t in tables)
    assert 0 < found["drift_cosine"] < 1
    assert found["drift_lse"] > 0
    assert found["attention_s"] > 0


def test_a_reusing_pass_merges_what_the_pass_before_kept(sdar, words):
    """Against the model itself, given each layer's attention to what is outside as it was in the pass before."""
    session = sdar(8)
    adapter, ids = session.adapter, session.adapter.tensor(range(3, 27))
    cache = adapter.new_cache()
    adapter.forward(ids[:16], cache, start=0)
    one, other = ids[16:24].clone(), ids[16:24].clone()
    one[3:], other[4:] = 198, 198
    strategy = parse(spec(tau=4))
    context = session._ctx.for_request()
    nothing = torch.zeros(8, dtype=torch.bool)
    revealed = nothing.clone()
    revealed[3] = True
    prefilled = Prefilled(cache=cache, logits=torch.empty(0), provenance=None)
    first = strategy.denoise(Block(16, one, one == 198, 0, nothing), prefilled, context)
    same = strategy.denoise(Block(16, one, one == 198, 1, nothing), prefilled, context)
    stale = strategy.denoise(Block(16, other, other == 198, 2, revealed), prefilled, context)
    exact = [adapter.denoise(each, cache, start=16) for each in (one, other)]

    assert float((first - exact[0]).abs().max()) < 1e-4
    assert float((same - exact[0]).abs().max()) < 1e-4  # nothing was revealed: reuse is exact
    assert float((stale - exact[1]).abs().max()) > 1e-3
    assert cache.length == 16


@pytest.mark.parametrize("options", [{"tau": 3}, {"tau": 3, "revealed": "recompute"}, {"tau": 9, "density": 0.2}])
def test_what_it_leaves_in_the_store_is_exact(sdar, words, options):
    session, fresh = sdar(4), sdar(4)
    prompt = words(18)
    answer = ask(session, prompt, spec(**options), 24)
    again = [*session._prompt(prompt).ids, *answer.token_ids]
    ids = session.tokenizer.decode(again)
    for name in ("prefix", "full"):
        got, expected = (ask(each, ids + words(5, seed=3), name, 12) for each in (session, fresh))

        assert got.token_ids == expected.token_ids
        assert name == "full" or got.tokens.reused >= 36  # of the answer as well


def test_committed_kv_is_the_models_own(sdar, words):
    session = sdar(4)
    prompt = words(18)
    answer = ask(session, prompt, spec(tau=4), 24)
    ids = (*answer.prompt_ids, *answer.token_ids)
    context = session._ctx.for_request()
    fresh = session.adapter.new_cache()
    session.adapter.prefill(ids[:40], fresh)
    with context.store.reading(context.space(), ids) as pieces:
        held = 0
        for begin, kv in pieces:
            stop = begin + kv.length
            own = fresh.read(begin, stop)
            held = stop
            for mine, theirs in zip((*kv.keys, *kv.values), (*own.keys, *own.values), strict=True):
                assert float((mine - theirs).abs().max()) < 1e-5
    assert held == 40


@pytest.mark.parametrize(
    "changes",
    [{"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8, "use_sliding_window": True}],
)
def test_layers_with_a_window_keep_their_own_attention(sdar, words, changes):
    session = sdar(4, changes)
    prompt = words(30)

    assert ask(session, prompt, spec(tau=1), 24).token_ids == ask(session, prompt, "full", 24).token_ids
    got = ask(session, prompt, spec(tau=4), 24)
    assert got.decoding["reuse_rate"] > 0


def test_it_says_when_what_it_kept_is_not_what_it_would_compute(sdar, words):
    session = sdar(8)
    doubtful = [ask(session, words(40, seed=seed), spec(tau=5), 32) for seed in range(3)]

    for got in doubtful:
        assert any("other answers" in note for note in got.notes) == (got.decoding["drift_cosine"] < 0.9)


def test_shifted_logits_and_parts_of_blocks(fast_dllm, words):
    session = fast_dllm()
    for length in (16, 35):
        expected = ask(session, words(length), "full", 24)

        assert ask(session, words(length), spec(tau=1), 24).token_ids == expected.token_ids
        assert ask(session, words(length), spec(tau=3), 24).decoding["reuse_rate"] > 0.4


def test_soft_caps_windows_and_eager_attention(make_model, make_tokenizer, words):
    model = make_model("gemma2", block_size=4, mask_token_id=198)
    with nbkv.load(model, tokenizer=make_tokenizer(bos=False)) as session:
        prompt = words(30)

        assert model.config.attn_logit_softcapping
        assert ask(session, prompt, spec(tau=1), 24).token_ids == ask(session, prompt, "full", 24).token_ids
        assert ask(session, prompt, spec(tau=4), 24).decoding["reuse_rate"] > 0.5


def test_heads_are_measured_once_and_remembered(sdar, words):
    session = sdar(8)
    strategy = spec(tau=8, threshold=0.9)
    first, second, third = (ask(session, words(40, seed=seed), strategy, 16) for seed in range(3))

    assert first.decoding["passes"] == {"refreshed": 16}
    assert second.decoding["passes"]["reused"] < 8  # after 24 comparisons, in the fourth block
    assert third.decoding["passes"] == {"refreshed": 2, "reused": 14}
    assert [any("K/V heads" in note for note in result.notes) for result in (first, second, third)] == [
        False,
        True,
        False,
    ]
    assert 0 < third.decoding["computed_heads"] <= 8


def test_the_switch_says_when_it_is_off(sdar, words):
    session = sdar(8)
    heard = []
    session.events.add(lambda event: heard.append(event) if isinstance(event, Fallback) else None)
    prompt = words(40)
    for _ in range(6):
        got = ask(session, prompt, spec(min_gain=1e9), 40, "static(steps=2)")

    assert got.decoding["off_blocks"] == 5
    assert got.decoding["reuse_rate"] == 0
    assert any("0 of 5 blocks" in note for note in got.notes)
    assert any("flashblock is off" in event.why for event in heard)
    assert got.token_ids == ask(session, prompt, "full", 40, "static(steps=2)").token_ids


def test_switched_off_for_its_cost_it_names_the_times(sdar, words):
    session = sdar(8)
    for _ in range(8):
        got = ask(session, words(40), spec(min_gain=1e9), 40)

    assert got.decoding["off_blocks"] == 5
    assert any("reused, and" in note for note in got.notes)


def test_a_causal_model_is_refused(session_of):
    with pytest.raises(UnsupportedModel, match="flashblock cannot serve"):
        session_of().use("flashblock")


@pytest.mark.parametrize(
    "wrong",
    [
        "tau=0",
        "tau=1.5",
        "tau=True",
        "revealed='zero'",
        "threshold=1.5",
        "threshold='high'",
        "density=0",
        "density=1.1",
        "residual=1, density=0.2",
        "residual=False",
        "min_gain=-1",
        "taux=2",
    ],
)
def test_wrong_options_are_one_line(wrong):
    with pytest.raises(BadOption) as refusal:
        parse(f"flashblock({wrong})")
    assert "\n" not in str(refusal.value)
    assert wrong.split("=", maxsplit=1)[0] in str(refusal.value)


def test_names():
    assert parse("blockdiff(3)").spec == "flashblock(tau=3)"
    assert parse("flashblock").at_full_budget().spec == "flashblock(tau=1)"
    assert not nbkv.strategies().set_index("name").loc["flashblock", "exact"]


def test_effective_reuse_leaves_out_what_is_computed_again(sdar, words):
    session, prompt, shape = sdar(8), words(40), {"tau": 8, "min_gain": 0}

    def figures(**options):
        return ask(session, prompt, spec(**shape | options), 16).decoding

    everything, sparse = figures(), figures(density=0.25)
    assert everything["effective_reuse"] == everything["reuse_rate"] == 7 / 8
    assert sparse["effective_reuse"] == pytest.approx(0.75 * 7 / 8, abs=0.03)
    assert figures(density=0.25, residual=False)["effective_reuse"] == 0
    # of 8 rows, the one that was revealed last is computed again in each of 7 passes
    assert figures(revealed="recompute")["effective_reuse"] == pytest.approx(7 / 8 * 7 / 8)


def test_heads_that_are_computed_again_are_not_reused(sdar, words):
    session = sdar(8)
    for seed in range(3):
        got = ask(session, words(40, seed=seed), spec(tau=8, threshold=0.9), 16)
    computed, heads = got.decoding["computed_heads"], sum(session.adapter.capabilities.kv_heads)

    assert got.decoding["effective_reuse"] == pytest.approx(got.decoding["reuse_rate"] * (1 - computed / heads))
    told = f"{100 * got.decoding['effective_reuse']:.0f} % of the attention to finished blocks"
    assert any(told in note for note in got.notes)


def test_layers_with_a_window_are_not_reused(sdar, words):
    changes = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}
    got = ask(sdar(4, changes | {"use_sliding_window": True}), words(30), spec(tau=4), 24).decoding

    assert got["effective_reuse"] == pytest.approx(got["reuse_rate"] / 2)
