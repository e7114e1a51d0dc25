"""What all eviction strategies share: never above `keep`, memory given back, exact where nothing has to go."""

from __future__ import annotations

from itertools import cycle

import pytest
import torch

import nbkv
from nbkv.errors import BadOption, UnsupportedModel
from nbkv.families.evict.base import Evict
from nbkv.families.evict.budget import SlotBudget
from nbkv.models.caches.evicting import EvictingCache
from nbkv.registry import strategies as registry
from nbkv.result import Provenance
from nbkv.strategy import parse

NAMES = [name for name in registry.names() if issubclass(registry.get(name), Evict)]
LOOKING = [name for name in NAMES if parse(name).look(1)]  # strategies that go by attention
BLIND = [name for name in NAMES if name not in LOOKING]
EAGER = [name for name in NAMES if not parse(name).lag]  # strategies that evict from the prompt as well
ANY = EAGER[0]  # for what the family does whichever strategy it is
SIDE = 2 * 16 * 4 * 2  # bytes a token takes in one layer of the small models: 2 heads of 16, float32, K and V
LAYERS = 4


@pytest.fixture(scope="module")
def one(model_of, tokenizer, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBKV_CACHE", str(tmp_path_factory.mktemp("remembered")))
        with nbkv.load(model_of("llama"), tokenizer=tokenizer) as session:
            yield session


@pytest.fixture
def session(one):
    """One session for all of these tests, as if new."""
    one.store.clear()
    one.chunks.clear()
    return one


def allocated(cache):
    return sum(side.untyped_storage().nbytes() for layer in cache.layers for side in layer._sides)


@pytest.mark.parametrize(
    "options",
    "keep=0|keep=0.0|keep=1.5|keep=True|keep='all'|per='token'|inner='kvlink'|context='all'|context=0|contexts=0".split(
        "|"
    ),
)
def test_options_out_of_range_are_refused(options):
    for name in NAMES:
        with pytest.raises(BadOption, match="not accepted"):
            parse(f"{name}({options})")


def test_a_budget_says_what_it_is_a_share_of():
    assert [SlotBudget(10, 100).slots(seen) for seen in (1, 100, 500)] == [10, 10, 10]
    share = SlotBudget(0.5, 100)
    assert [share.slots(seen) for seen in (1, 11, 100, 101, 102, 120)] == [1, 6, 50, 51, 51, 60]
    assert all(SlotBudget(0.3, 1000).slots(seen) <= -(-3 * seen // 10) for seen in range(1, 3000))


# memory


@pytest.mark.parametrize("name", EAGER)
@pytest.mark.parametrize("keep", ["24", "0.4"])
def test_never_above_keep(session, words, opened, name, keep):
    strategy, prefilled, ctx = opened(session, words(70), f"{name}(keep={keep})")
    cache, n = prefilled.cache, 71
    for count in range(40):
        limit = SlotBudget(strategy.keep, n).slots(n + count)
        assert all(layer.length <= layer.capacity <= limit for layer in cache.layers)
        assert allocated(cache) == cache.nbytes <= limit * SIDE * LAYERS
        strategy.step(5 + count, n + count, prefilled, ctx)
    assert {layer.seen for layer in cache.layers} == {n + 40}


@pytest.mark.parametrize("name", EAGER)
def test_memory_falls_by_what_was_dropped(session, words, name):
    whole = session.generate(words(99), strategy=f"{name}(keep=1.0)", max_new_tokens=1)
    some = session.generate(words(99), strategy=f"{name}(keep=25)", max_new_tokens=1)

    assert whole.kv_bytes["working"] == 100 * SIDE * LAYERS
    assert some.kv_bytes["working"] == 25 * SIDE * LAYERS
    assert some.kv_bytes["peak"] >= 100 * SIDE * LAYERS  # one stretch held all of it


@pytest.mark.parametrize("name", EAGER)
def test_a_long_prompt_is_held_a_stretch_at_a_time(session, words, name):
    result = session.generate(words(199), strategy=f"{name}(keep=20, stretch=32)", max_new_tokens=2)
    stretch, moved = (20 + 32) * SIDE * LAYERS, (20 + 32) * SIDE

    if parse(name).whole:
        assert result.kv_bytes["peak"] >= 200 * SIDE * LAYERS
    else:
        assert result.kv_bytes["peak"] <= stretch + moved
    assert result.compute.rows == pytest.approx(1.0)


@pytest.mark.parametrize("name", EAGER)
def test_what_is_noted_does_not_grow_with_query_heads(session, words, opened, name):
    _, prefilled, _ = opened(session, words(40), f"{name}(keep=20)")
    assert {mark.shape[0] for mark in prefilled.cache.layers[0]._marks.values()} == {2}


@pytest.mark.parametrize("name", [name for name in LOOKING if name in EAGER])
def test_heads_keep_their_own_or_a_layer_the_same(session_of, words, opened, name):
    session = session_of("qwen3")
    for per, alike in (("head", False), ("layer", True)):
        _, prefilled, _ = opened(session, words(80), f"{name}(keep=40, per='{per}')")
        positions = [layer.positions.sort(dim=-1).values for layer in prefilled.cache.layers]
        assert all(torch.equal(one[0], one[1]) for one in positions) == alike


# exactness and what a result says


FAMILIES = [("gemma3", name) for name in NAMES]
FAMILIES += list(zip("llama mistral gemma2 gpt2 phi deepseek_v3".split(), cycle(LOOKING), strict=False))


@pytest.mark.parametrize(("family", "name"), FAMILIES)
def test_where_nothing_has_to_go_it_equals_full(session_of, words, family, name):
    session = session_of(family)
    specs = ["full", f"{name}(keep=1.0)", f"{name}(keep=200, stretch=16)"]
    table = session.compare(words(60), specs, repeat=1, max_new_tokens=12)

    assert all(result.token_ids == table.results[0].token_ids for result in table.results)
    assert all(row["kl"] < 1e-6 and row["top1"] == 1.0 for row in table.rows)


def test_less_is_not_the_same(session, words):
    specs = ["full", *(f"{name}(keep=8, stretch=16)" for name in EAGER)]
    table = session.compare(words(80), specs, repeat=1, max_new_tokens=12)
    assert all(row["top1"] < 1 for row in table.rows[1:])
    assert all(row["kl"] > 1e-6 for row in table.rows[1:])
    # the prompt's own last token still saw everything where it was run at once
    for name, row in zip(EAGER, table.rows[1:], strict=True):
        assert not (parse(name).whole and row["diverges_at"] == 0)


@pytest.mark.parametrize("name", EAGER)
def test_dropped_tokens_are_said_and_provenance_stays(session, words, name):
    result = session.generate(words(99), strategy=f"{name}(keep=10, per='layer')", max_new_tokens=8)

    assert result.kept.shape == result.provenance.shape == (100,)
    assert 0 <= result.kept.sum() <= 10 * LAYERS
    assert result.tokens.fresh == 100
    assert result.lineage == f"approx:{name}"
    assert any("B at the peak" in note for note in result.notes)


@pytest.mark.parametrize("name", EAGER)
def test_a_sliding_layer_holds_no_more_than_its_window(session_of, words, opened, name):
    _, prefilled, _ = opened(session_of("gemma2"), words(60), f"{name}(keep=1.0)")
    assert [layer.length for layer in prefilled.cache.layers] == [8, 61, 8, 61]


@pytest.mark.parametrize(("family", "why"), [("bloom", "places in the cache"), ("gemma4", "each other's K and V")])
def test_models_whose_tokens_cannot_be_dropped_are_refused(session_of, family, why):
    session = session_of(family, strategy="full")
    with pytest.raises(UnsupportedModel, match=why):
        session.generate("w1 w2", strategy=ANY)


def test_models_with_states_are_refused(tokenizer):
    import transformers

    sizes = {"vocab_size": 199, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "num_heads": 4}
    config = transformers.Mamba2Config(**sizes, head_dim=16, n_groups=1, expand=2, chunk_size=16)
    with nbkv.load(transformers.Mamba2ForCausalLM(config).eval(), tokenizer=tokenizer, strategy="full") as session:  # noqa: SIM117
        with pytest.raises(UnsupportedModel, match="states"):
            session.generate("w1 w2", strategy=ANY)


def test_a_prompt_whose_angles_would_change_runs_in_full(make_model, tokenizer, words):
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 40}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [1.0 + i for i in range(8)]}
    model = make_model("phi3", rope_parameters=rope, original_max_position_embeddings=40)
    with nbkv.load(model, tokenizer=tokenizer, strategy=f"{ANY}(keep=10)") as session:
        expected = session.generate(words(35), max_new_tokens=9, strategy="full").token_ids
        result = session.generate(words(35), max_new_tokens=9)

    assert result.token_ids == expected
    assert any("no eviction" in note for note in result.notes)


def test_half_precision(make_model, tokenizer, words):
    with nbkv.load(make_model("qwen3").to(torch.bfloat16), tokenizer=tokenizer) as session:
        table = session.compare(words(50), ["full", f"{ANY}(keep=1.0)", f"{ANY}(keep=20)"], repeat=1, max_new_tokens=4)

    assert table.rows[1]["kl"] < 1e-2
    assert table.results[2].kv_bytes["working"] == 20 * SIDE * LAYERS // 2


@pytest.mark.parametrize("name", NAMES)
def test_the_self_check_passes(session, name):
    assert session.verify(name).ok


# with another strategy inside


@pytest.mark.parametrize("name", EAGER)
def test_a_stored_prefix_is_copied_and_stays_exact(session, words, name):
    spec = f"{name}(keep=20, inner='prefix')"
    first = session.generate(words(60), strategy=spec, max_new_tokens=6)
    again = session.generate(words(60) + words(9, seed=1), strategy=spec, max_new_tokens=6)
    looked = again.compute.select * len(again.prompt_ids)

    assert first.tokens.fresh == 61
    assert again.tokens.reused == 61
    assert again.tokens.fresh == 9
    assert looked == pytest.approx(min(parse(name).look(70), 32))
    assert again.kv_bytes["working"] <= 20 * SIDE * LAYERS
    prompt = words(60) + words(9, seed=1) + words(3, seed=2)
    expected = session.generate(prompt, strategy="full", max_new_tokens=6)
    result = session.generate(prompt, strategy="prefix", max_new_tokens=6)
    assert result.token_ids == expected.token_ids
    assert result.tokens.reused == 70
    assert [storage.leased for storage in session.store._buffers] == [False]


@pytest.mark.parametrize("name", EAGER)
def test_blended_chunks_are_evicted_from(session, words, name):
    prompt = [words(4, seed=1), session.chunk(words(40), name="c"), words(6, seed=2)]
    blend = session.generate(prompt, strategy="blend(budget=0.2)", max_new_tokens=8, keep=False)
    inner = "inner='blend(budget=0.2)', context='none'"
    whole = session.generate(prompt, strategy=f"{name}(keep=1.0, {inner})", max_new_tokens=8, keep=False)
    some = session.generate(prompt, strategy=f"{name}(keep=16, {inner})", max_new_tokens=8)

    assert whole.token_ids == blend.token_ids
    assert (some.provenance == blend.provenance).all()
    assert (some.provenance == Provenance.CHUNK).sum() == 32
    assert some.kv_bytes["working"] <= 16 * SIDE * LAYERS
    assert whole.lineage == some.lineage == f"approx:{name}"


@pytest.mark.parametrize("name", BLIND)
def test_without_a_look_at_it_a_prefix_is_dropped_from_layer_by_layer(session, words, name):
    result = session.generate(words(99), strategy=f"{name}(keep=10, inner='prefix')", max_new_tokens=2)
    # one layer's copy of the prompt, what is left of it, and what is left of the others
    assert result.kv_bytes["peak"] <= (100 + 10 * LAYERS) * SIDE
    assert any("no peak here counts" in note for note in result.notes)


def test_a_prefill_that_breaks_gives_the_store_back(session, words, monkeypatch):
    session.generate(words(30), max_new_tokens=2)
    broken = parse(f"{ANY}(keep=8, inner='prefix')")
    monkeypatch.setattr(broken, "worth", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.generate(words(30) + words(5, seed=3), strategy=broken, max_new_tokens=2)
    assert not any(storage.leased for storage in session.store._buffers)
    assert session.generate(words(30) + words(5, seed=3), max_new_tokens=2).tokens.reused >= 31


# compressed contexts


@pytest.mark.parametrize("name", EAGER)
def test_a_compressed_context_serves_many_questions(session, words, name):
    spec = f"{name}(keep=0.4, context='chunks')"
    notes = session.chunk(words(50), name="notes")
    first = session.generate([notes, words(5, seed=1)], max_new_tokens=5, strategy=spec)
    second = session.generate([notes, words(7, seed=2)], max_new_tokens=5, strategy=spec)
    session.store.clear()
    alone = session.generate([notes, words(7, seed=2)], max_new_tokens=5, strategy=spec)

    assert first.tokens.fresh == 56
    assert second.tokens.reused == 51
    assert second.tokens.fresh == 7
    assert second.compute.share == pytest.approx(7 / 58)
    assert any("compressed on this session's shelf" in note for note in second.notes)
    assert second.token_ids == alone.token_ids
    assert alone.tokens.fresh == 58


def test_a_context_stays_with_its_session(session_of, words):
    spec, text = f"{ANY}(keep=0.4, context=20)", words(30)
    sessions = [session_of(), session_of()]
    assert [each.generate(text, strategy=spec, max_new_tokens=1).tokens.reused for each in sessions] == [0, 0]
    assert sessions[0].generate(text, strategy=spec, max_new_tokens=1).tokens.reused == 20


def test_contexts_are_few_and_go_with_the_store(session_of, words):
    spec = f"{ANY}(keep=0.4, context='chunks', contexts=2)"
    session = session_of(strategy=spec)
    made = [session.chunk(words(30, seed=seed), name=f"c{seed}") for seed in range(3)]
    for chunk in made:
        session.generate([chunk, "w1 w2"], max_new_tokens=2)
    assert len(session._ctx.scratch[ANY]) == 2
    assert session.generate([made[0], "w3"], max_new_tokens=2).tokens.reused == 0
    assert session.generate([made[2], "w3"], max_new_tokens=2).tokens.reused == 31
    other = spec.replace("0.4", "0.5")  # another budget: another choice of tokens
    assert session.generate([made[2], "w3"], max_new_tokens=2, strategy=other).tokens.reused == 0
    session.store.clear()
    assert session.generate([made[2], "w3"], max_new_tokens=2).tokens.reused == 0


def test_a_context_that_grows_is_held_again(session, words):
    spec = f"{ANY}(keep=0.4, context='chunks')"
    one, two = (session.chunk(words(20, seed=seed), name=f"c{seed}") for seed in (1, 2))
    session.generate([one, "w1"], max_new_tokens=2, strategy=spec)
    longer = session.generate([one, two, "w1"], max_new_tokens=2, strategy=spec)
    again = session.generate([one, two, "w2"], max_new_tokens=2, strategy=spec)
    assert (longer.tokens.reused, again.tokens.reused) == (21, 41)


def test_a_boundary_can_be_a_number(session_of, words):
    session = session_of(strategy=f"{ANY}(keep=0.5, context=21)")
    session.generate(words(20) + words(4, seed=1), max_new_tokens=2)
    result = session.generate(words(20) + words(9, seed=2), max_new_tokens=2)
    assert result.tokens.reused == 21
    assert not any(entry.ids != result.prompt_ids[:21] for entry in session._ctx.scratch[ANY])


def test_comparing_leaves_no_context_behind(session, words):
    session.compare(words(40), ["full", f"{ANY}(keep=8, context=20)", f"{ANY}(keep=8, context='turns')"], repeat=1)
    assert ANY not in session._ctx.scratch


@pytest.mark.parametrize("name", EAGER)
def test_a_chat_goes_on_from_what_is_held(session, words, name):
    spec = f"{name}(keep=24, context='turns', contexts=1)"
    chat = session.chat()
    for turn in range(4):
        result = chat.send(words(9, seed=turn), max_new_tokens=7, strategy=spec)
        assert result.kv_bytes["working"] <= 24 * SIDE * LAYERS
        if turn:
            before = chat.results[turn - 1]
            assert result.tokens.reused == len(before.prompt_ids) + 6  # the answer's last token has no KV
    assert len(session._ctx.scratch[name]) == 1


def test_whole_caches_carried_from_turn_to_turn_equal_full(session_of, words):
    session, full = session_of(strategy=f"{ANY}(keep=1.0, context='turns')"), session_of(strategy="full")
    chat, reference = session.chat(), full.chat()
    for turn in range(3):
        asked = words(9, seed=turn)
        assert chat.send(asked, max_new_tokens=7).token_ids == reference.send(asked, max_new_tokens=7).token_ids


def test_an_answer_that_was_cut_off_is_not_carried_on_by_halves(session_of, words):
    session = session_of(strategy=f"{ANY}(keep=12, context='turns')")
    stream = session.stream(words(20), max_new_tokens=9)
    next(stream)
    session.stop()
    for _ in stream:
        pass
    held = session._ctx.scratch[ANY]
    assert all(isinstance(entry.cache, EvictingCache) and entry.cache.seen == len(entry.ids) for entry in held)


# evictions that wait

LAGGED = [name for name in NAMES if name not in EAGER]


@pytest.mark.parametrize("name", LAGGED)
@pytest.mark.parametrize("inner", ["full", "prefix", "blend(budget=0.2)"])
def test_a_prompt_stays_until_the_first_eviction_is_due(session, words, name, inner):
    spec = f"{name}(keep=24, window=8, inner='{inner}')"
    prompt = [words(4, seed=1), session.chunk(words(40)), words(6, seed=2)]
    early, later = (session.generate(prompt, strategy=spec, max_new_tokens=count) for count in (8, 12))

    assert early.kv_bytes["working"] == (len(early.prompt_ids) + 7) * SIDE * LAYERS
    assert early.kept.all()
    assert later.kv_bytes["working"] == (24 + 3) * SIDE * LAYERS
    assert not later.kept.all()


@pytest.mark.parametrize("name", LAGGED)
def test_a_chat_goes_on_from_what_waiting_left(session, words, name):
    spec, chat = f"{name}(keep=24, window=4, context='turns')", session.chat()
    replies = [chat.send(words(30, seed=turn), strategy=spec, max_new_tokens=8) for turn in range(3)]

    assert [reply.kv_bytes["working"] for reply in replies] == [(24 + 3) * SIDE * LAYERS] * 3
    assert all(reply.tokens.reused for reply in replies[1:])
