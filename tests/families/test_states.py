"""Every family with recurrent layers that transformers has: what goes on from a checkpoint is what the model gives."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from shrinking import families, remembering, small_model
from survey import tokenizer

import nbkv
from nbkv.context import Request
from nbkv.prompts.prompt import Prompt
from nbkv.registry import strategies as registry
from nbkv.result import Provenance
from nbkv.stopping import Stopped
from nbkv.stores.memory import MemoryStore

# transformers' own warnings about what is no business of ours
pytestmark = pytest.mark.filterwarnings("ignore")

# Vision-language models around the same text decoders are in the survey, which looks at logits too.
PASSES = """bailing_hybrid bamba falcon_h1 granitemoehybrid inkling2_text inkling_text kimi_linear lfm2 lfm2_moe lfm3
    mamba2 nemotron_h olmo_hybrid qwen3_5_moe_text qwen3_5_text qwen3_next rwkv xlstm zamba2 zaya""".split()
TOKENS = "falcon_mamba jamba mamba zamba".split()  # Mamba-1 layers ignore their states in a pass over several tokens
REFUSED = "minimax qwen4_exp recurrent_gemma".split()  # with states elsewhere, or with more than states
LIMIT = 1e-4
VOCABULARY = 190


@pytest.fixture(params=[*PASSES, *TOKENS])
def session(request):
    if request.param not in families():
        pytest.skip("this transformers does not have it")
    model = remembering(small_model(request.param))
    with nbkv.load(model, tokenizer=tokenizer(), store="memory?device=1GiB") as opened:
        yield opened


def own(session, ids):
    """Return the model's own logits after the last of ``ids``."""
    with torch.no_grad():
        return session.adapter.model(torch.tensor([ids]), use_cache=False).logits[0, -1].float()


def off(got, want):
    return float((got.float() - want).abs().max() / want.abs().max().clamp(min=1.0))


def ask(session, ids, answer=0, stop=""):
    """Run ``ids`` and a greedy answer as a request does, hold all logits against the model's own; return what ran.

    ``stop`` ends it behind the second layer of its ``prefill`` or of a ``step``.
    """
    stage, layers = "prefill", iter(range(1))

    def follow():
        if stage == stop and next(layers, None) is None:
            raise Stopped

    ctx = replace(session._open().for_request(), stopper=SimpleNamespace(check=follow))
    request, strategy = Request(Prompt(tuple(ids)), max_new_tokens=answer + 1), session.strategy
    prefilled = strategy.prefill(request, ctx)
    stage, tokens, logits = "step", [], prefilled.logits
    try:
        for _ in range(answer):
            assert off(logits, own(session, [*ids, *tokens])) <= LIMIT
            tokens.append(int(logits.argmax()))
            logits = strategy.step(tokens[-1], len(ids) + len(tokens) - 1, prefilled, ctx, ctx.work())
        assert off(logits, own(session, [*ids, *tokens])) <= LIMIT
    finally:
        strategy.commit(prefilled, (*ids, *tokens), request, ctx)
    assert len(prefilled.provenance) == len(ids)
    return prefilled, [*ids, *tokens]


def reused(prefilled):
    return int((prefilled.provenance == Provenance.PREFIX).sum())


def lost(session):
    """Return by how much the logits change if a checkpoint is all zeros: the rest of the test looks at logits."""
    adapter, ids = session.adapter, torch.arange(2, 32)
    logits = []
    for scale in (1, 0):
        cache = adapter.growing()
        adapter.forward(ids[:20], cache, start=0)
        states = cache.checkpoint()
        layers = tuple({name: state * scale for name, state in layer.items()} for layer in states.layers)
        cache.resume(replace(states, layers=layers))
        logits.append(adapter.forward(ids[20:], cache, start=20, keep=8))

    return off(logits[1], logits[0])


def test_chats_branches_and_stops_give_the_models_own_logits(session):
    draw = random.Random(0)
    words = [[draw.randrange(2, VOCABULARY) for _ in range(n)] for n in (40, 9, 9, 9, 9, 9)]
    found = session.adapter.capabilities
    assert found.prefix
    assert lost(session) > 10 * LIMIT
    assert found.states == ("tokens" if session.adapter.config.model_type in TOKENS else "passes")
    seen, ids = [], []
    for number, new in enumerate(words):
        prompt = [*ids, *new]
        if number == 3 and found.walk:  # stopped between two layers: nothing of it may be found again
            with pytest.raises(Stopped):
                ask(session, prompt, stop="prefill")
        prefilled, ids = ask(session, prompt, answer=2)
        assert reused(prefilled) == (len(seen[-1]) if seen else 0)
        assert prefilled.rows.token_layers == (len(prompt) - reused(prefilled)) * found.n_layers
        seen.append(ids)

    again, _ = ask(session, prompt)
    assert reused(again) == len(prompt) - 1

    shared = seen[0][:30]  # ends where no checkpoint is: the first that parts there makes one
    tails = [[draw.randrange(2, VOCABULARY) for _ in range(12)] for _ in range(3)]
    assert [reused(ask(session, [*shared, *tail])[0]) for tail in tails] == [0, 30, 30]

    if found.walk:  # stopped while it answers, between two layers of a step
        with pytest.raises(Stopped):
            ask(session, ids, answer=2, stop="step")
    prefilled, _ = ask(session, [*ids, *tails[0]], answer=1)
    assert reused(prefilled) >= len(ids) - 1
    assert not any(node.leases for tree in session.store._trees.values() for node in tree.nodes())


@pytest.mark.parametrize("family", ["xlstm", "falcon_h1"])
def test_another_session_goes_on_from_what_a_shared_store_holds(family):
    if family not in families():
        pytest.skip("this transformers does not have it")
    model, store = small_model(family), MemoryStore(limit=2**30)
    prompt = "".join(f" w{number}" for number in range(40))
    with (
        nbkv.load(model, tokenizer=tokenizer(), store=store) as one,
        nbkv.load(model, tokenizer=tokenizer(), store=store) as other,
    ):
        first, second = (session.generate(prompt, max_new_tokens=6) for session in (one, other))

    assert second.tokens.reused == 39
    assert second.token_ids == first.token_ids


def test_what_is_run_one_by_one_is_said_and_counted():
    with nbkv.load(small_model("jamba"), tokenizer=tokenizer()) as session:
        shared = "".join(f" w{number}" for number in range(30))
        first = session.generate(shared + " w90 w91 w92", max_new_tokens=2)
        second = session.generate(shared + " w93 w94 w95 w96", strategy="prefix(segment=8)", max_new_tokens=2)
        third = session.generate(shared + " w97 w98 w99", max_new_tokens=2)

    def alone(result):
        return [int(re.search(r"\d+", note)[0]) for note in result.notes if "one by one, in" in note]

    # the second parts from the first behind 30 tokens and keeps states there; the third goes on from them
    assert [alone(result) for result in (first, second, third)] == [[], [4], [3]]
    assert [result.tokens.reused for result in (first, second, third)] == [0, 0, 30]
    assert any("segment plays no part" in note for note in second.notes)
    assert session.stats.fallbacks == 2


@pytest.mark.parametrize(("family", "states"), [("qwen3_next", "passes"), ("jamba", "tokens"), ("mamba", "tokens")])
def test_half_precision_is_held_against_the_models_own_rounding(family, states):
    with nbkv.load(small_model(family).to(torch.bfloat16), tokenizer=tokenizer()) as session:
        assert session.adapter.capabilities.states == states
        assert session.verify("prefix").ok
        chat = session.chat()
        first, second = (chat.send(" w1 w5 w9 w30 w7", max_new_tokens=3) for _ in range(2))
        assert second.tokens.reused == len(first.prompt_ids) + len(first.token_ids) - 1


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_whose_states_cannot_be_cloned_is_refused(family):
    if family not in families():
        pytest.skip("this transformers does not have it")
    with nbkv.load(small_model(family), tokenizer=tokenizer(), strategy="full") as session:
        assert not session.adapter.capabilities.states
        with pytest.raises(nbkv.UnsupportedModel, match=r"states|cache") as refusal:
            session.use("prefix")
        assert "\n" not in str(refusal.value)
        assert session.generate("w1 w2 w3", max_new_tokens=2).token_ids


PER_TOKEN = [name for name in registry.names() if {"relocation", "per_token"} & set(registry.get(name).needs)]


@pytest.mark.parametrize("strategy", PER_TOKEN)
def test_strategies_that_need_kv_of_each_token_refuse_by_name_and_reason(strategy):
    model = small_model("qwen3_next")
    with nbkv.load(model, tokenizer=tokenizer()) as session:
        with pytest.raises(nbkv.UnsupportedModel, match=f"{strategy} cannot serve .*recurrent layers"):
            session.use(strategy)
        with pytest.raises(nbkv.UnsupportedModel, match="recurrent layers"):
            session.plan(16)
        chunk = session.chunk("w1 w2 w3 w4 w5 w6", sink="none")
        assert session.generate([chunk, " w7"], max_new_tokens=2).tokens.reused == len(chunk)  # as a prefix
