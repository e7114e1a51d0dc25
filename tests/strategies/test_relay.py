"""What is RelayCaching's own: answers as they were decoded, moved, rectified in a range of layers."""

from __future__ import annotations

from math import ceil

import pytest
import torch

import nbkv
from nbkv.context import Request
from nbkv.errors import BadOption
from nbkv.families.agents.decoded import DecodedKV, newest
from nbkv.families.agents.layer_profile import HandoverTrial, handovers, layer_profile, measured
from nbkv.result import Provenance
from nbkv.strategy import parse

RANGE = "relay(layers=(1, 2, 3))"


def rows(result, kind):
    return [int(row) for row in (result.provenance == kind).nonzero()[0]]


def prefilled(session, prompt, spec):
    request, ctx = Request(session._prompt(prompt), 4, keep=False), session._ctx.for_request()
    return parse(spec).prefill(request, ctx)


def answered(session, words, spec=RANGE, n=17):
    return session.generate(words(20, seed=1), strategy=spec, max_new_tokens=n)


def kept(session):
    return session._ctx.scratch["relay"]


# what is kept


def test_an_answers_kv_are_those_of_its_decoding_moved_to_where_it_stands(session_of, words):
    session = session_of("qwen3")
    plan = answered(session, words)
    (mine,) = kept(session)
    base, n = len(plan.prompt_ids), len(plan.token_ids) - 1  # the last token was chosen, and not run
    whole = session.adapter.growing(64)
    session.adapter.prefill((*plan.prompt_ids, *plan.token_ids[:n]), whole)
    exact = whole.read(base, base + n)
    held = prefilled(session, [words(3, seed=5), plan.chunk("plan"), words(4, seed=6)], "relay(budget=0)").cache
    there, at = held.read(4, 4 + n), torch.arange(n)
    moved = session.adapter.rope.move(exact, at + base, at + 4)

    for layer in range(session.adapter.n_layers):
        assert torch.allclose(mine.kv.values[layer], exact.values[layer], atol=1e-5)
        assert torch.allclose(there.keys[layer], moved.keys[layer], atol=1e-4)
        assert torch.allclose(there.values[layer], exact.values[layer], atol=1e-5)


def test_the_input_of_the_ranges_first_layer_is_captured_token_by_token(session_of, words):
    session = session_of("llama")
    plan = answered(session, words)
    (mine,) = kept(session)
    seen = []
    hook = session.adapter.walk.layers[1].register_forward_pre_hook(lambda _, args, **__: seen.append(args[0]))
    session.adapter.plain(session.adapter.tensor([*plan.prompt_ids, *plan.token_ids]))
    hook.remove()

    assert mine.layer == 1
    assert mine.hidden.shape == (1, 16, session.adapter.config.hidden_size)
    assert torch.allclose(mine.hidden[0], seen[0][0, len(plan.prompt_ids) :][:16], atol=1e-5)
    assert mine.nbytes == mine.kv.nbytes + 16 * session.adapter.config.hidden_size * 4


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (3, 9), (10, 17)])
def test_a_part_of_an_answer_has_its_kv_too(session_of, words, start, stop):
    from dataclasses import replace

    session = session_of()
    whole = answered(session, words).chunk("plan")
    part = replace(whole, sink=(*whole.sink, *whole.token_ids[:start]), token_ids=whole.token_ids[start:stop])
    found, (mine,) = newest(kept(session), part), kept(session)

    assert found.kv.length == min(stop, 16) - start
    assert found.base == mine.base + start
    assert torch.equal(found.hidden, mine.hidden[:, start : min(stop, 16)])
    assert newest(kept(session), replace(part, sink=(*part.sink[:-1], 5))) is None


def test_the_longest_unused_answer_goes_first(session_of, words):
    session = session_of(store="memory?device=1MiB")
    first, second = (session.generate(words(9, seed=s), strategy=RANGE, max_new_tokens=9) for s in (1, 2))
    share = 2.5 * kept(session)[0].nbytes / 2**20
    session.generate([words(2), first], strategy=RANGE, max_new_tokens=1)
    session.generate(words(9, seed=3), strategy=f"relay(layers=(1, 2, 3), store_share={share})", max_new_tokens=9)
    left = {one.ids[: len(first.prompt_ids)] for one in kept(session)}

    assert first.prompt_ids in left
    assert second.prompt_ids not in left


# what is run


def test_rows_that_go_on_are_recomputed_and_the_rest_stays(session_of, words):
    session = session_of("llama")
    plan = answered(session, words)
    prompt = [words(3, seed=5), plan.chunk("plan"), words(12, seed=6)]
    for budget, most in ((0.0, 0), (0.25, 4), (0.5, 8)):
        result = session.generate(prompt, strategy=f"relay(budget={budget}, layers=(1, 2, 3))", max_new_tokens=1)
        assert len(rows(result, Provenance.RECOMPUTED)) == most
        assert len(rows(result, Provenance.CHUNK)) == 16 - most
    chosen = rows(session.generate(prompt, strategy=RANGE, max_new_tokens=1), Provenance.RECOMPUTED)
    assert 0 < len(chosen) < 16


def test_only_the_range_is_run_of_what_is_reused(session_of, words):
    session = session_of("llama")
    plan = answered(session, words)
    built = session._prompt([words(3, seed=5), plan.chunk("plan"), words(12, seed=6)])
    fresh, n_layers = len(built.ids) - 16, session.adapter.n_layers
    for budget, went_on in ((0.25, 4), (0.5, 8)):
        made = prefilled(
            session, [words(3, seed=5), plan.chunk("plan"), words(12, seed=6)], f"relay({budget}, layers=(1, 2, 3))"
        )
        ran = made.rows.token_layers + made.select.token_layers
        # all in layers 1 and 2, the detection layer; what goes on runs that layer, whose K/V it has, to its end
        assert ran == fresh * n_layers + 16 * 2
        assert (made.provenance == Provenance.RECOMPUTED).sum() == went_on


def test_outside_of_the_range_kv_stay_as_they_were_decoded(session_of, words):
    session = session_of("llama")
    plan = answered(session, words)
    prompt = [words(3, seed=5), plan.chunk("plan"), words(12, seed=6)]
    as_it_was, made = (prefilled(session, prompt, spec) for spec in ("relay(budget=0)", "relay(0.5, layers=(1, 2, 3))"))
    one, two = (each.cache.read(4, 20) for each in (as_it_was, made))
    apart = [float((a - b).abs().max()) for a, b in zip(one.values, two.values, strict=True)]

    assert apart[0] == 0
    assert apart[1] < 1e-5  # its input was captured: the values are the same again
    assert apart[2] > 1e-4
    assert apart[3] == 0


@pytest.mark.parametrize("budget", [0.1, 0.3, 0.5])
def test_rows_whose_values_are_right_do_not_go_on(session_of, words, budget):
    """An answer that stands behind the very words it was decoded behind has nothing to rectify, whoever looks."""
    session = session_of("llama")
    right = session.generate(words(20, seed=1), strategy=RANGE, max_new_tokens=17)
    moved = session.generate(words(9, seed=2), strategy=RANGE, max_new_tokens=17)
    shelf = dict(session._ctx.scratch)
    session.store.clear()  # or the first one would be an exact prefix
    session._ctx.scratch.update(shelf)
    prompt = [words(20, seed=1), right.chunk("right"), words(3, seed=5), moved.chunk("moved"), words(12, seed=6)]
    made = prefilled(session, prompt, f"relay({budget}, layers=(1, 2, 3))")
    went_on, reused = ((made.provenance == kind).nonzero()[0] for kind in (Provenance.RECOMPUTED, Provenance.CHUNK))
    border = 21 + 17  # BOS, the words, the answer

    assert len(went_on) == ceil(32 * budget)
    assert went_on.min() >= border
    assert reused.min() < border


def test_by_the_papers_choice_tokens_that_the_suffix_looks_at_go_on(session_of, words):
    session = session_of("llama")
    plan = answered(session, words)
    prompt = [words(3, seed=5), plan.chunk("plan"), words(12, seed=6)]

    def chosen(spec):
        made = prefilled(session, prompt, f"relay(budget=None, layers=(1, 2, 3), {spec})")
        return set((made.provenance == Provenance.RECOMPUTED).nonzero()[0].tolist())

    by_value, by_suffix = chosen("influence=1000"), chosen("influence=1.02, deviation=1000")
    assert by_value
    assert by_suffix
    assert chosen("influence=1.02") == by_value | by_suffix
    assert chosen("influence=1000, deviation=1000") == set()
    assert chosen("influence=0, deviation=0") == set(range(4, 20))


def test_answers_of_exact_strategies_are_reused_and_run_from_the_first_layer(session_of, words):
    session = session_of("llama")
    plan = session.generate(words(20, seed=1), strategy="prefix", max_new_tokens=17)
    made = prefilled(
        session, [words(3, seed=5), plan.chunk("plan"), words(12, seed=6)], "relay(0.25, layers=(1, 2, 3))"
    )

    assert (made.provenance == Provenance.CHUNK).sum() == 12
    assert made.select.token_layers > 16 * 3


def test_several_answers_in_any_order_and_one_twice(session_of, words):
    session = session_of("llama")
    one, two = (session.generate(words(9, seed=s), strategy=RANGE, max_new_tokens=9) for s in (1, 2))
    prompt = [two.chunk("b"), words(3), one.chunk("a"), two.chunk("b"), words(5, seed=6)]
    result = session.generate(prompt, strategy=RANGE, max_new_tokens=2)
    full = prefilled(session, prompt, "full").logits
    got = prefilled(session, prompt, "relay(budget=1)").logits

    assert result.tokens.reused + result.tokens.recomputed >= 24
    assert (got - full).abs().max() < 1e-4 * max(1.0, float(full.abs().max()))


def test_it_is_nearer_to_full_than_what_is_reused_as_it_is():
    from nbkv.tasks import agents

    with nbkv.load("tiny", strategy="relay") as session:
        kl = {}
        for spec in ("relay(budget=0)", "relay", "relay(budget=1)"):
            chains = [
                nbkv.Pipeline(session, task.prompts, strategy=spec, max_new_tokens=12, fidelity=True).run(**task.inputs)
                for task in agents(n=3, agents=3, first=4, lines=4, form="notes")
            ]
            kl[spec] = sum(done["teller"].fidelity.kl for done in chains)
    assert kl["relay(budget=1)"] < 1e-6
    assert kl["relay"] < 0.8 * kl["relay(budget=0)"]


# the profile


def test_the_profile_is_measured_once_a_model_and_leaves_a_quarter_at_most(session_of, words):
    session = session_of("qwen3")
    session.generate(words(5), strategy="relay", max_new_tokens=2)
    ctx = session._ctx.for_request()
    (name,) = [name for name in ctx.verdicts._entries if name.startswith("relay@")]
    found = layer_profile(ctx)

    assert ctx.model in name
    assert 0 <= found.start < found.detection < found.stop <= session.adapter.n_layers
    assert found.left <= 0.25 * found.naive
    ctx.verdicts.put(name, {"start": 0, "detection": 2, "stop": 3})
    assert layer_profile(ctx).stop == 3


def test_a_range_of_all_layers_is_full_and_none_is_reuse_as_it_is(session_of):
    session = session_of("llama")
    ctx = session._ctx.for_request()
    with torch.inference_mode():
        trial = HandoverTrial(ctx.adapter, handovers(ctx)[0])
        whole, none = trial.distance(0, ctx.adapter.n_layers), trial.distance(0, 0)
        later = trial.distance(1, ctx.adapter.n_layers)
        assert whole < 1e-6 < later <= none * 1.5
        assert float(trial.deviations[0].max()) < 1e-5  # the first layer's values are those of the tokens alone
        assert float(trial.deviations[1:].max()) > 1e-3
        assert measured(ctx.adapter, handovers(ctx)).naive > 0


# options


@pytest.mark.parametrize(
    "wrong",
    [
        "deviation=-1", "influence='much'", "suffix=0", "store_share=2", "budget=-1", "layers=(1, 2)",
        "layers=(2, 2, 3)", "layers=(3, 2, 4)", "layers='all'", "layers=(0, 1, -1)",
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(BadOption, match=wrong.split("=")[0]):
        parse(f"relay({wrong})")


def test_layers_that_the_model_has_not_are_refused(session_of, words):
    with pytest.raises(BadOption, match="has 4 layers"):
        session_of().generate(words(4), strategy="relay(layers=(1, 2, 9))")


def test_a_stopped_answer_keeps_whole_tokens(session_of, words):
    session = session_of()
    seen = []

    def stop(_ids, scores):
        seen.append(1)
        if len(seen) == 5:
            session.stop()
        return scores

    session.generate(words(9), strategy=RANGE, max_new_tokens=20, logits_processor=[stop])
    (mine,) = kept(session)
    assert isinstance(mine, DecodedKV)
    assert mine.kv.length == mine.hidden.shape[1] == len(mine.ids) - mine.base
