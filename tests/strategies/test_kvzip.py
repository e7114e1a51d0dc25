"""KVzip: what repeating a context looks at is kept, whatever is asked; compressed contexts outlive the session."""

from __future__ import annotations

import pytest
import torch

from nbkv.errors import BadOption
from nbkv.events import StoreFault
from nbkv.models.caches.growing import GrowingCache
from nbkv.result import Provenance
from nbkv.strategy import parse


def asked(session, words, question=1, spec="kvzip(keep=0.3)", **options):
    chunks = [session.chunk(words(70, seed), name=f"text {seed}") for seed in (11, 12)]
    return session.generate([*chunks, words(9, question)], strategy=spec, max_new_tokens=6, **options)


def layers_of(session):
    (held,) = session._ctx.scratch["kvzip"]
    return held.cache.layers


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_importance_is_the_most_attention_that_the_repetition_pays(session_of, words, opened, family):
    """Against a pass over all rows at once on a plain cache, of which every weight is looked at."""
    session = session_of(family)
    strategy, prefilled, ctx = opened(session, words(50), "kvzip(keep=40, piece=16)")
    adapter, ids = ctx.adapter, session._prompt(words(50)).ids
    n, held = len(ids), prefilled.cache.layers
    most = [torch.zeros(adapter.capabilities.kv_heads[0], n) for _ in held]
    for cue in strategy._repetitions(ids, n, ctx):
        cache = GrowingCache()
        adapter.forward(adapter.tensor(ids), cache, start=0)

        def see(seen):
            weights = seen.weights[..., :n].unflatten(0, (len(most[seen.layer]), -1)).amax(dim=(1, 2))
            torch.maximum(most[seen.layer], weights, out=most[seen.layer])

        from nbkv.models.attention.intercept import watched

        rows = torch.arange(n, n + len(cue))
        mask = adapter.attention.mask(rows, n + len(cue))

        def mask_of(layer, mask=mask):
            return mask[adapter.config.layer_types[layer]] if isinstance(mask, dict) else mask

        with watched(adapter.config, torch.arange(len(cue)), see, mask_of):
            adapter.forward(adapter.tensor(cue), cache, start=n)
    for layer, whole in zip(held, most, strict=True):
        noted = layer.mark("importance") + 2
        assert torch.allclose(noted, whole.gather(1, layer.positions.long()), atol=1e-4)
        for head, kept in zip(whole, layer.positions.long(), strict=True):
            window = adapter.capabilities.windows[layer.index]
            reach = torch.arange(n) >= (0 if window is None else n - window + 1)
            gone = torch.ones(n, dtype=torch.bool).index_fill_(0, kept, False) & reach
            assert not gone.any() or head[gone].max() <= head[kept].min() + 1e-5


def test_what_is_kept_depends_on_the_context_alone(session_of, words):
    kept = []
    for question in (1, 2, 3):
        session = session_of()
        asked(session, words, question)
        kept.append([layer.positions.clone() for layer in layers_of(session)])
    assert all(torch.equal(one, other) for each in kept[1:] for one, other in zip(kept[0], each, strict=True))
    assert {layer.length for layer in layers_of(session)} == {-(-3 * layers_of(session)[0].seen // 10)}


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
def test_at_full_budget_it_is_full_also_from_what_is_held(session_of, words, family):
    session = session_of(family)
    prompt, other = words(90), words(9, 2)
    for at, text in enumerate((prompt, prompt + other)):
        whole = session.generate(text, strategy="kvzip(keep=1.0, context=80)", max_new_tokens=6)
        assert whole.token_ids == session.generate(text, strategy="full", max_new_tokens=6).token_ids
        assert whole.tokens.reused == 80 * at


@pytest.mark.parametrize("spec", ["memory+disk:{}?form=kvzip", "disk:{}?form=kvzip", "memory+file://{}?form=kvzip"])
def test_compressed_contexts_are_at_rest_for_other_sessions(session_of, words, tmp_path, spec):
    store = spec.replace("{}", str(tmp_path))
    first = session_of(store=store)
    one = asked(first, words)
    layers = layers_of(first)
    first.close()
    second = session_of(store=store)
    again = asked(second, words)
    other = asked(second, words, question=2)

    assert again.token_ids == one.token_ids
    context = layers[0].seen
    assert again.tokens.reused == context
    assert (again.provenance[:context] == Provenance.PREFIX).all()
    assert any("held compressed in" in note for note in again.notes)
    assert other.tokens.reused == context
    figures = second.store.figures()[1]
    assert 0 < figures["error"] < 1
    assert figures["form"] == "kvzip"
    kv = 2 * 2 * 16 * 4 * 4 * context  # K and V, two heads of sixteen numbers, four bytes, four layers
    assert figures["bytes"] < 0.6 * kv + 8000  # 30 % of it, with positions and importance, and a head


def test_the_error_is_the_attention_that_dropped_tokens_had(session_of, words, tmp_path):
    errors = []
    for keep in (0.9, 0.5, 0.2):
        session = session_of(store=f"memory+disk:{tmp_path}/{keep}?form=kvzip")
        asked(session, words, spec=f"kvzip(keep={keep})")
        held = [layer.mark("attention").sum(dim=-1).mean() for layer in layers_of(session)]
        session.store.flush()
        errors.append(session.store.figures()[1]["error"])
        assert errors[-1] == pytest.approx(1 - float(min(held)), abs=1e-5)
    assert 0 < errors[0] < errors[1] < errors[2] < 1


def test_no_exact_strategy_and_no_other_budget_finds_them(session_of, words, tmp_path):
    store = f"memory+disk:{tmp_path}?form=kvzip"
    first = session_of(store=store)
    asked(first, words)
    asked(first, words, spec="prefix")
    first.close()
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1, "K/V of all tokens are not written in this form"
    for spec in ("prefix", "batch", "kvzip(keep=0.4)", "kvzip(keep=0.3, per='layer')", "snapkv(keep=0.3)"):
        second = session_of(store=store)
        session = second._ctx.for_request()
        prompt = second._prompt(words(5)).ids
        assert second.store.holds(session.space(), prompt) == 0
        result = second.generate([words(70, 11), words(70, 12), words(9, 1)], strategy=spec, max_new_tokens=2)
        assert result.tokens.reused == 0, spec
    others = session_of(store=store, tenant="other")
    assert asked(others, words).tokens.reused == 0


@pytest.mark.parametrize("where", ["head", "layer 0", "last layer"])
def test_damage_at_rest_is_a_miss_and_the_answer_of_no_rest(session_of, words, tmp_path, where):
    store = f"memory+disk:{tmp_path}?form=kvzip"
    first = session_of(store=store)
    one = asked(first, words)
    first.close()
    (path,) = tmp_path.rglob("*.safetensors")
    raw = bytearray(path.read_bytes())
    head = 8 + int.from_bytes(raw[:8], "little")
    raw[{"head": 40, "layer 0": head + 100, "last layer": len(raw) - 5}[where]] ^= 8
    path.write_bytes(raw)
    second, told = session_of(store=store), []
    second.events.add(told.append)
    again = asked(second, words)

    assert (again.token_ids, again.tokens.reused) == (one.token_ids, 0)
    assert [event.tier for event in told if isinstance(event, StoreFault)] == ["disk"]


def test_where_no_room_is_left_to_repeat_nothing_is_dropped(session_of, words):
    session = session_of()
    prompt = words(500)  # of 512 that the model was made for
    result = session.generate(prompt, strategy="kvzip(keep=0.3)", max_new_tokens=2)
    assert any("no room to repeat" in note for note in result.notes)
    assert result.token_ids == session.generate(prompt, strategy="full", max_new_tokens=2).token_ids


def test_slots_that_nobody_weighed_stay(layer_of, left):
    layer = layer_of(12)
    layer.mark("importance")[:, :8] = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.6, 0.4]) - 2
    assert left(parse("kvzip"), layer, 12, 7) == [[0, 2, 4, 8, 9, 10, 11]] * 2
    assert left(parse("kvzip"), layer, 12, 3) == [[9, 10, 11]] * 2


@pytest.mark.parametrize("options", ["piece=0", "piece=15", "keep=0", "piece=1.5"])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(BadOption, match="not accepted"):
        parse(f"kvzip({options})")
