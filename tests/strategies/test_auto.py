"""Auto: what it chooses by injected costs, what it says about it, and that exact service stays exact."""

from __future__ import annotations

import numpy as np
import pytest
import transformers

import nbkv
from nbkv.errors import BadOption
from nbkv.events import Fallback
from nbkv.families.routing import cost_model, experience, kl_history, timed_passes
from nbkv.families.routing.cost_model import CostModel
from nbkv.result import Provenance
from nbkv.strategy import parse

CHEAP = CostModel(overhead=1e-4, row=1e-3, pair=1e-6, move=1e-6, copy=1e-7)  # passes cost by rows, KV nearly nothing
SLOW_LOAD = CostModel(overhead=1e-4, row=1e-3, pair=0.0, move=1.0, copy=1.0)  # KV arrives slower than it is computed
HIGH_OVERHEAD = CostModel(
    overhead=1.0, row=1e-4, pair=0.0, move=1e-6, copy=1e-7
)  # the second pass of a blend never pays


@pytest.fixture
def costing(monkeypatch):
    """Let models cost what a test says instead of being measured."""

    def inject(costs):
        monkeypatch.setattr(cost_model, "measure", lambda adapter: costs)
        # how long this machine really takes must not blur what a test is about
        monkeypatch.setattr("nbkv.strategies.auto.learn_pace", lambda *_: None)
        monkeypatch.setattr("nbkv.inference.run.learn", lambda *_: None)

    return inject


def blended(session, words, **options):
    """Ask with two chunks that stand behind other text."""
    one, two = session.chunk(words(60, seed=1), name="one"), session.chunk(words(60, seed=2), name="two")
    options = {"max_new_tokens": 4} | options
    return session.generate([words(3, seed=options.pop("seed", 3)), two, one, words(4, seed=9)], **options)


def said(result):
    return " | ".join(note for note in result.notes if note.startswith("auto"))


def test_nothing_known_is_served_by_prefix_and_kept(session_of, words, costing):
    costing(CHEAP)
    session = session_of(strategy="auto")
    first = session.generate(words(40), max_new_tokens=4)
    again = session.generate(words(40), max_new_tokens=4)

    assert "auto: prefix, " in said(first)
    assert first.lineage == again.lineage == "exact"
    assert again.tokens.reused == 40
    assert again.token_ids == first.token_ids


def test_a_long_known_prefix_is_continued_and_the_note_says_both_times(session_of, words, costing):
    costing(CHEAP)
    session = session_of(strategy="auto")
    session.generate(words(200), strategy="prefix", max_new_tokens=1)
    result = session.generate(words(200) + words(5, seed=1), max_new_tokens=4)

    assert result.tokens.reused == 201
    known, whole = CHEAP.run(5, 206) + 201 * CHEAP.copy, CHEAP.run(206, 206)
    assert said(result).endswith(f"auto: prefix, {known * 1e3:.2g} ms expected against full, {whole:.3f} s")


def test_chunks_at_other_places_are_blended(session_of, words, costing):
    costing(CHEAP)
    result = blended(session_of(strategy="auto"), words)

    assert "auto: influence, " in said(result)
    assert {Provenance.CHUNK, Provenance.RECOMPUTED} <= set(result.provenance)
    assert result.lineage == "approx:influence"
    assert result.strategy == "auto"


@pytest.mark.parametrize("costs", [HIGH_OVERHEAD, SLOW_LOAD])
def test_below_break_even_the_answer_is_exact_and_a_fallback_is_told(session_of, words, costing, costs):
    costing(costs)
    session, heard = session_of(strategy="auto"), []
    session.events.add(lambda event: heard.append(event) if isinstance(event, Fallback) else None)
    result = blended(session, words)

    assert result.lineage == "exact"
    assert "auto: no influence: below break-even" in said(result)
    assert [event.why for event in heard] == ["auto: no influence: below break-even"]
    assert session.stats.fallbacks == 1
    assert result.token_ids == blended(session, words, strategy="full").token_ids


def test_kv_that_loads_slower_than_it_is_computed_is_left_alone(session_of, words, costing):
    costing(SLOW_LOAD)
    session = session_of(strategy="auto")
    session.generate(words(100), strategy="prefix", max_new_tokens=1)
    result = session.generate(words(100), max_new_tokens=2)

    assert "auto: full, " in said(result)
    assert result.tokens.reused == 0


@pytest.fixture
def work_clock(monkeypatch):
    """Have costs be measured by a clock that the work alone moves: each layer takes so long, and each of its rows."""
    now, hooks = [0.0], []

    def passed(_layer, given, named):
        rows = (given[0] if given else named["hidden_states"]).shape[1]
        now[0] += 1e-4 + 1e-5 * rows

    def read():
        now[0] += 1e-6  # what copies take
        return now[0]

    def timed():
        began = read()
        return lambda: read() - began

    def watch(session):
        hooks.extend(layer.register_forward_pre_hook(passed, with_kwargs=True) for layer in session.adapter.walk._own)

    monkeypatch.setattr(timed_passes, "timed", timed)
    monkeypatch.setattr("nbkv.inference.run.learn", lambda *_: None)
    yield watch
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(("tokens", "pays"), [(1, False), (3, False), (200, True)])
def test_tiny_chunks_are_below_break_even_by_measured_costs(session_of, words, work_clock, tokens, pays):
    session = session_of(strategy="auto")
    work_clock(session)
    chunk = session.chunk(words(tokens, seed=2), name="c")
    result = session.generate([words(3), chunk, words(4, seed=1)], max_new_tokens=2)

    assert "measured first, once" in said(result)
    assert (result.lineage == "exact") is not pays
    assert ("below break-even" in said(result)) is not pays


def test_costs_are_measured_once_and_the_note_says_so(session_of, words):
    session = session_of(strategy="auto")
    first, second = (session.generate(words(20), max_new_tokens=1) for _ in range(2))

    assert "measured first, once" in said(first)
    assert "measured" not in said(second)
    assert first.timing.ttft_s >= first.timing.select_s > 0


def test_exact_service_under_auto_feeds_the_exact_store(session_of, words, costing):
    costing(CHEAP)
    session, fresh = session_of(), session_of()
    session.generate(words(30), strategy="auto", max_new_tokens=4)
    blended(session, words, strategy="auto")
    for name in ("prefix", "full"):
        got = session.generate(words(30) + words(4, seed=1), strategy=name, max_new_tokens=8)
        assert got.token_ids == fresh.generate(words(30) + words(4, seed=1), max_new_tokens=8).token_ids


def test_a_bound_is_measured_beside_the_first_answers_which_are_exact(session_of, words, costing):
    costing(CHEAP)
    session = session_of(strategy="auto(max_kl=100.0, alpha=0.5)")  # 4 of 4 within it make it believed
    results = [blended(session, words, seed=10 + i) for i in range(5)]

    for result in results[:4]:
        assert "auto: measured influence beside this answer, mean KL" in said(result)
        assert f"over {len(result.token_ids)} tokens" in said(result)
        assert result.lineage == "exact"
        assert result.compute.select > 0
        assert result.timing.select_s > 0
    assert "(mean of 4: " in said(results[3])
    assert results[4].lineage == "approx:influence"
    assert session.stats.fallbacks == 0
    full = blended(session, words, seed=10, strategy="full")
    assert results[0].token_ids == full.token_ids


def test_what_is_measured_beside_an_answer_is_its_fidelity(session_of, words, costing):
    costing(CHEAP)
    session = session_of()
    one, two = session.chunk(words(60, seed=1), name="one"), session.chunk(words(60, seed=2), name="two")
    prompt = [words(3, seed=3), two, one, words(4, seed=9)]
    known = session.compare(prompt, ["influence"], repeat=1).results[1].fidelity
    session.generate(prompt, strategy="auto(max_kl=100.0)", max_new_tokens=known.n)
    (measured,) = kl_history.kl_history(session._ctx.verdicts, session.adapter.fingerprint, "influence").values

    assert known.kl > 1e-6
    assert measured == pytest.approx(known.kl, rel=1e-2)


def test_above_the_bound_there_is_no_blend(session_of, words, costing):
    costing(CHEAP)
    session = session_of(strategy="auto(max_kl=0.0)")
    results = [blended(session, words, seed=10 + i) for i in range(3)]

    assert {result.lineage for result in results} == {"exact"}
    assert "measured influence beside" in said(results[0])
    assert "at most 5 % of prompts may be above max_kl=0, and 1 of 1 measured were" in said(results[1])
    assert session.stats.fallbacks == 2


def test_the_bound_is_measured_again_now_and_then(session_of, words, costing, monkeypatch):
    costing(CHEAP)
    monkeypatch.setattr("nbkv.strategies.auto._EVERY", 6)
    session = session_of(strategy="auto(max_kl=100.0, alpha=0.5)")
    results = [blended(session, words, seed=10 + i) for i in range(6)]

    assert ["measured influence" in said(result) for result in results] == [1, 1, 1, 1, 0, 1]


def test_what_is_remembered_of_a_blend_decides_without_measuring(session_of, words, costing):
    costing(CHEAP)
    session = session_of()
    for _ in range(45):
        kl_history.learn_kl(session._ctx.verdicts, session.adapter.fingerprint, "influence", 0.5)

    assert blended(session, words, strategy="auto(max_kl=0.6)").lineage == "approx:influence"
    refused = blended(session, words, strategy="auto(max_kl=0.4)", seed=4)
    assert "max_kl=0.4, and 45 of 45 measured were" in said(refused)


@pytest.mark.parametrize(("n", "above", "believed"), [(44, 0, False), (45, 0, True), (45, 1, False), (77, 1, True)])
def test_a_bound_is_believed_when_chance_cannot_explain_it(n, above, believed):
    known = kl_history.KLHistory(tuple([2.0] * above + [0.5] * (n - above)))

    assert known.keeps(1.0, 0.05) is believed


def test_a_belief_is_wrong_on_one_in_ten_at_most():
    """Where exactly a share alpha of prompts is above the bound, it is rarely believed that fewer are."""
    draw, wrong = np.random.default_rng(0), 0
    for _ in range(400):
        known = kl_history.KLHistory()
        for value in draw.random(90):
            known = known.with_kl(2.0 if value < 0.05 else 0.5)
        wrong += known.keeps(1.0, 0.05)

    assert wrong / 400 <= 0.1


def test_a_blend_that_failed_its_self_check_or_cannot_serve_the_model_is_left_out(session_of, words, costing):
    costing(CHEAP)
    session = session_of(strategy="auto")
    session._ctx.verdicts.put(f"influence@{session.adapter.fingerprint}", "cold: error 1, limit 0")
    assert "failed its self-check" in said(blended(session, words))

    opt = session_of("opt", strategy="auto")
    result = blended(opt, words)
    assert result.lineage == "exact"
    assert "influence cannot serve" in said(result)


def test_where_prefixes_cannot_be_reused_everything_is_computed_in_full(session_of, words, tokenizer):
    failed = session_of(strategy="auto")
    failed._ctx.verdicts.put(f"prefix@{failed.adapter.fingerprint}", "again: error 1, limit 0")
    sizes = {"vocab_size": 199, "hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 64, "lru_width": 32}
    config = transformers.RecurrentGemmaConfig(
        **sizes, num_attention_heads=2, num_key_value_heads=1, attention_window_size=8, eos_token_id=None
    )
    griffin = transformers.RecurrentGemmaForCausalLM(config).eval()
    with nbkv.load(griffin, tokenizer=tokenizer, strategy="auto") as recurrent:
        for session in (failed, recurrent):
            result = session.generate(words(20), max_new_tokens=2)

            assert "auto: full, no reuse: " in said(result)
            assert result.lineage == "exact"
            assert session.stats.fallbacks == 1
            assert result.token_ids == session.generate(words(20), strategy="full", max_new_tokens=2).token_ids


def test_a_model_with_states_is_continued_from_its_checkpoints(words, tokenizer):
    config = transformers.MambaConfig(vocab_size=199, hidden_size=32, num_hidden_layers=2, state_size=4)
    with nbkv.load(transformers.MambaForCausalLM(config).eval(), tokenizer=tokenizer, strategy="auto") as recurrent:
        first, again = (recurrent.generate(words(20), max_new_tokens=2) for _ in range(2))

        assert "auto: prefix, from checkpoints" in said(first)
        assert again.tokens.reused == 20
        assert again.token_ids == first.token_ids
        assert recurrent.stats.fallbacks == 0


def test_another_blend_can_be_named(session_of, words, costing):
    costing(CHEAP)
    result = blended(session_of(), words, strategy="auto(blend='cacheblend(budget=0.3)')")

    assert result.lineage == "approx:cacheblend"
    assert "auto: cacheblend(budget=0.3), " in said(result)


def test_requests_correct_what_is_expected_within_bounds(session_of, words):
    session = session_of(strategy="auto")
    ctx, blend = session._open().for_request(), parse("blend")
    for took in (1000.0, 1e-6):
        for _ in range(50):
            experience.learn_pace(ctx, blend, 100, 1.0, took)
            experience.learn_pace(ctx, parse("prefix"), 100, 1.0, took)
        assert experience.pace(ctx, blend, 100) == (3.0 if took > 1 else 1 / 3)
    assert experience.pace(ctx, parse("cacheblend"), 100) == 1.0
    assert experience.pace(ctx, parse("prefix"), 100) == 1.0, "passes are corrected by themselves"


@pytest.mark.parametrize("spec", ["auto(max_kl=-1)", "auto(max_kl=True)", "auto(max_kl='x')", "auto(blend='prefix')"])
def test_bad_options_are_one_line(spec):
    with pytest.raises(BadOption) as refusal:
        nbkv.strategy.parse(spec)
    assert "is not accepted" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_link_raises_the_budget_to_what_is_recomputed_while_it_loads(session_of, words, costing):
    costing(CHEAP)
    session = session_of()
    a_token = session.adapter.token_bytes
    assert a_token == 4 * 2 * (16 + 16) * 4  # layers, K/V heads, both sides, bytes of a number
    rows = CHEAP.rows(128, 128) / 128  # of a whole prefill

    slow = blended(session, words, strategy=f"cacheblend(link={a_token / rows * 2})")
    assert "recompute 0.5 of the rows: budget 0.5" in slow.notes[-1]
    plain = blended(session, words, strategy="cacheblend(budget=0.5)")
    assert slow.tokens.recomputed == plain.tokens.recomputed
    fast = blended(session, words, strategy="cacheblend(link=1e15)")
    assert "budget 0.15" in fast.notes[-1]
    crawling = blended(session, words, strategy="cacheblend(link=1)")
    assert crawling.token_ids == blended(session, words, strategy="full").token_ids


@pytest.mark.parametrize("link", ["0", "-1", "True", "'x'"])
def test_a_link_is_a_rate(link):
    with pytest.raises(BadOption, match="bytes per second"):
        parse(f"cacheblend(link={link})")
