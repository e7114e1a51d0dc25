"""The self-check fails where something is wrong: faults planted where they could happen, one at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from nbkv.families.blend import assemble
from nbkv.families.blend.base import Blend
from nbkv.families.blend.layerwise import LayerwisePlacement
from nbkv.kv import KV
from nbkv.models.attention import masks, ranges
from nbkv.models.attention.positions import PassAttention
from nbkv.models.caches.growing_layer import GrowingLayer
from nbkv.models.caches.recurrent import StateCache, StateLayer
from nbkv.prompts.prompt import Prompt
from nbkv.registry import strategies as registry
from nbkv.result import Provenance
from nbkv.rope import Rope
from nbkv.session.verification import trials
from nbkv.stores.memory import MemoryStore
from nbkv.strategy import Strategy

CHUNKS = [name for name in registry.names() if "relocation" in registry.get(name).needs]
ONE = "epic"  # looks at nothing to choose its rows, so that whatever is wrong is the machinery's


def failures(report):
    return [row["check"] for row in report.rows if not row["ok"]]


# K/V are put at other places: what is placed, and where


def placing(patch, change):
    """Let ``change`` see every piece of a chunk before it is placed, and return what is placed instead."""
    own = LayerwisePlacement.add

    def add(self, piece):
        own(self, piece if piece.base == piece.start else change(self, piece))

    patch.setattr(LayerwisePlacement, "add", add)


def in_layer(kv, layer, keys, values):
    return KV(
        tuple(keys if at == layer else side for at, side in enumerate(kv.keys)),
        tuple(values if at == layer else side for at, side in enumerate(kv.values)),
    )


def rotated_by_one_too_many(patch):
    placing(patch, lambda _, piece: replace(piece, base=piece.base - 1))


def not_rotated(patch):
    placing(patch, lambda _, piece: replace(piece, base=piece.start))


def rotated_twice(patch):
    placing(patch, lambda _, piece: replace(piece, base=2 * piece.base - piece.start))


def rotated_by_another_base(patch):
    own = LayerwisePlacement.__post_init__

    def begin(self):
        own(self)
        layers = (each and replace(each, frequencies=each.frequencies**1.2) for each in self.rope.layers)
        self.rope = Rope(tuple(layers))

    patch.setattr(LayerwisePlacement, "__post_init__", begin)


def a_row_is_lost(patch):
    def lose(_, piece):
        kv = piece.kv.compact()
        for side in (*kv.keys, *kv.values):
            side[:, -2] = 0
        return replace(piece, kv=kv)

    placing(patch, lose)


def rows_are_swapped(patch):
    def swap(_, piece):
        order = [*range(piece.kv.length - 2), piece.kv.length - 1, piece.kv.length - 2]
        kv = KV(tuple(k[:, order] for k in piece.kv.keys), tuple(v[:, order] for v in piece.kv.values))
        return replace(piece, kv=kv)

    placing(patch, swap)


def heads_are_swapped(patch):
    def swap(_, piece):
        return replace(piece, kv=KV(tuple(k.flip(0) for k in piece.kv.keys), tuple(v.flip(0) for v in piece.kv.values)))

    placing(patch, swap)


def k_and_v_are_exchanged_in_one_layer(patch):
    placing(patch, lambda _, piece: replace(piece, kv=in_layer(piece.kv, 2, piece.kv.values[2], piece.kv.keys[2])))


def values_are_scaled(patch):
    placing(patch, lambda _, piece: replace(piece, kv=KV(piece.kv.keys, tuple(v * 1.01 for v in piece.kv.values))))


def other_chunks(patch, layers):
    """Place, in the layers from ``layers`` on, what was placed of the chunk before."""

    def change(self, piece):
        before = [each for each in self.pieces if each.base != each.start and each.kv.length >= piece.kv.length]
        if not before:
            return piece
        other, n = before[0].kv[: piece.kv.length], len(piece.kv.keys)
        take = [at >= int(n * layers) for at in range(n)]
        keys = tuple(o if t else k for t, o, k in zip(take, other.keys, piece.kv.keys, strict=True))
        values = tuple(o if t else v for t, o, v in zip(take, other.values, piece.kv.values, strict=True))
        return replace(piece, kv=KV(keys, values))

    placing(patch, change)


def another_chunk(patch):
    other_chunks(patch, 0.0)


def half_of_the_layers_of_another_chunk(patch):
    other_chunks(patch, 0.5)


def a_repeated_chunk_keeps_its_first_place(patch):
    def change(self, piece):
        same = [each for each in self.pieces if each.kv.keys[0].data_ptr() == piece.kv.keys[0].data_ptr()]
        return replace(piece, base=piece.base + piece.start - same[0].start) if same else piece

    placing(patch, change)


def the_sink_is_placed_too(patch):
    own = assemble._stored

    def stored(spot, *args, **kwargs):
        chunk, start = spot
        path = (*chunk.sink, *chunk.token_ids)
        return own((replace(chunk, token_ids=path[: len(chunk)], sink=()), start), *args, **kwargs)

    patch.setattr(assemble, "_stored", stored)


# what the store was given


def encoded_by_other_weights(patch):
    own = trials.encode

    def encode(path, ctx):
        weight = ctx.adapter.walk.layers[1].mlp.up_proj.weight.data
        weight.mul_(1.5)
        try:
            return own(path, ctx)
        finally:
            weight.div_(1.5)

    patch.setattr(trials, "encode", encode)


def a_match_of_one_token_too_many(patch):
    own = MemoryStore.take

    def take(self, space, ids, limit, new, **options):
        known = self.holds(space, ids)
        for other in range(199 if known < limit else 0):
            changed = (*ids[:known], other, *ids[known + 1 :])
            if self.holds(space, changed) > known:
                return own(self, space, changed, known + 1, new, **options)
        return own(self, space, ids, limit, new, **options)

    patch.setattr(MemoryStore, "take", take)


def blended_kv_is_kept_as_exact(patch):
    def commit(self, prefilled, ids, request, ctx):
        lease = ctx.store.take(ctx.space(), ids, 0, ctx.adapter.growing)
        lease.buffer.write(0, prefilled.cache.read(0, prefilled.cache.length))
        ctx.store.give(lease, ids[: prefilled.cache.length])

    patch.setattr(Blend, "commit", commit)


# what rows attend to


def edges(patch, change):
    own = masks.edges

    def changed(rows, *reach):
        return change(rows, *own(rows, *reach))

    for module in (masks, ranges):
        patch.setattr(module, "edges", changed)


def a_row_sees_the_next_one(patch):
    edges(patch, lambda _, lower, upper: (lower, upper + 1))


def the_first_token_is_hidden(patch):
    edges(patch, lambda rows, lower, upper: (torch.maximum(lower, rows.clamp(max=1)), upper))


def the_window_is_ignored(patch):
    edges(patch, lambda _, lower, upper: (torch.zeros_like(lower), upper))


def the_mask_is_bottom_right(patch):
    own = PassAttention.by_position

    def by_position(self, rows, n_keys):
        return own(self, torch.arange(n_keys - len(rows), n_keys), n_keys)

    patch.setattr(PassAttention, "by_position", by_position)


# while decoding


def a_query_is_one_position_late(patch):
    def step(self, token, at, prefilled, ctx, work=None):
        return ctx.adapter.forward(ctx.adapter.tensor([token]), prefilled.cache, start=at + 1, work=work)[-1]

    patch.setattr(Strategy, "step", step)


def a_decoded_row_is_written_one_place_early(patch):
    own = GrowingLayer._append

    def append(self, keys, values):
        own(self, keys, values)
        if keys.shape[-2] == 1 and self.length > 1:
            for buffer in self._buffers:
                buffer[:, :, self.length - 2] = buffer[:, :, self.length - 1]

    patch.setattr(GrowingLayer, "_append", append)


def the_last_row_is_overwritten(patch):
    own = Blend.prefill

    def prefill(self, request, ctx):
        prefilled = own(self, request, ctx)
        n = prefilled.cache.length
        prefilled.cache.write(n - 1, prefilled.cache.read(n - 2, n - 1).compact())
        return prefilled

    patch.setattr(Blend, "prefill", prefill)


# what a strategy says and gives


def on_prefill(patch, change):
    own = Blend.prefill

    def prefill(self, request, ctx):
        prefilled = own(self, request, ctx)
        if request.prompt.chunks:
            change(prefilled)
        return prefilled

    patch.setattr(Blend, "prefill", prefill)


def random_logits_with_chunks(patch):
    def change(prefilled):
        prefilled.logits = torch.randn_like(prefilled.logits)

    on_prefill(patch, change)


def fresh_rows_are_said_to_be_reused(patch):
    def change(prefilled):
        prefilled.provenance[prefilled.provenance == Provenance.FRESH] = Provenance.CHUNK

    on_prefill(patch, change)


def a_recomputed_row_is_not_written(patch):
    own = GrowingLayer.update

    def update(self, keys, values, *args, **kwargs):
        if self.rows is not None and len(self.rows) > 2 and self.length > self.rows[2]:
            before = [buffer[:, :, self.rows[2]].clone() for buffer in self._buffers]
            given = own(self, keys, values, *args, **kwargs)
            for buffer, old in zip(self._buffers, before, strict=True):
                buffer[:, :, self.rows[2]] = old
            return given
        return own(self, keys, values, *args, **kwargs)

    patch.setattr(GrowingLayer, "update", update)


def nothing_is_reused(patch):
    own = Blend.prefill

    def prefill(self, request, ctx):
        return own(self, replace(request, prompt=Prompt(request.ids)), ctx)

    patch.setattr(Blend, "prefill", prefill)


FAULTS = [
    rotated_by_one_too_many,
    not_rotated,
    rotated_twice,
    rotated_by_another_base,
    a_row_is_lost,
    rows_are_swapped,
    heads_are_swapped,
    k_and_v_are_exchanged_in_one_layer,
    values_are_scaled,
    another_chunk,
    half_of_the_layers_of_another_chunk,
    a_repeated_chunk_keeps_its_first_place,
    the_sink_is_placed_too,
    encoded_by_other_weights,
    blended_kv_is_kept_as_exact,
    a_row_sees_the_next_one,
    the_first_token_is_hidden,
    the_mask_is_bottom_right,
    a_query_is_one_position_late,
    a_decoded_row_is_written_one_place_early,
    the_last_row_is_overwritten,
    random_logits_with_chunks,
    fresh_rows_are_said_to_be_reused,
    a_recomputed_row_is_not_written,
    nothing_is_reused,
]


@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_is_caught(session_of, monkeypatch, plant):
    session = session_of()
    plant(monkeypatch)
    found = failures(session.verify(ONE))

    assert found
    assert not [check for check in found if "raised" in check], "a fault that raises needs no check"


@pytest.mark.parametrize("plant", [a_match_of_one_token_too_many, a_query_is_one_position_late])
def test_a_fault_of_prefix_reuse_is_caught(session_of, monkeypatch, plant):
    session = session_of()
    plant(monkeypatch)

    assert failures(session.verify("prefix"))


def test_a_window_that_is_ignored_is_caught(session_of, monkeypatch):
    session = session_of("mistral")
    assert session.verify(ONE).ok
    the_window_is_ignored(monkeypatch)

    assert failures(session.verify(ONE))


@pytest.fixture(scope="module")
def hybrid():
    torch.manual_seed(0)
    sizes = {"vocab_size": 199, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1}
    states = {"mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1}
    model = transformers.FalconH1ForCausalLM(transformers.FalconH1Config(**sizes, **heads, **states)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed" not in name:
                parameter.mul_(3.0)
    return model


def states_are_not_put_back(patch):
    patch.setattr(StateLayer, "put", lambda self, states: None)


def states_are_those_of_another_prompt(patch):
    own, seen = StateCache.resume, []

    def resume(self, states):
        if states is not None:
            seen.append(states)
            states = replace(states, layers=seen[0].layers)
        own(self, states)

    patch.setattr(StateCache, "resume", resume)


@pytest.mark.parametrize("plant", [states_are_not_put_back, states_are_those_of_another_prompt])
def test_stale_states_are_caught(hybrid, tokenizer, monkeypatch, plant):
    import nbkv

    with nbkv.load(hybrid, tokenizer=tokenizer) as session:
        assert session.adapter.capabilities.states
        assert session.verify("prefix").ok
        plant(monkeypatch)

        assert failures(session.verify("prefix"))


@pytest.mark.parametrize("strategy", CHUNKS)
def test_what_looks_right_without_chunks_and_is_not_with_them_fails(session_of, monkeypatch, strategy, links):
    session, cls = session_of(), registry.get(strategy)
    own = cls.prefill

    def prefill(self, request, ctx):
        prefilled = own(self, request, ctx)
        if request.prompt.chunks:
            prefilled.logits = torch.randn_like(prefilled.logits)
        return prefilled

    assert session.verify(strategy).ok
    monkeypatch.setattr(cls, "prefill", prefill)
    assert any("logits" in check or "chunk" in check for check in failures(session.verify(strategy)))


@pytest.mark.parametrize("strategy", CHUNKS)
def test_a_strategy_that_runs_everything_fails_as_one_that_reuses_nothing(session_of, monkeypatch, strategy, links):
    session = session_of()
    monkeypatch.setattr(registry.get(strategy), "prefill", Strategy.prefill)
    report = session.verify(strategy)
    (row,) = [row for row in report.rows if not row["ok"]]

    assert "reuse" in row["check"]
    assert "nothing was reused" in row["note"]
    assert "nothing was reused" in report.failed(registry.get(strategy)().spec)


def test_a_fallback_with_a_reason_is_no_failure(session_of, monkeypatch):
    from nbkv.events import Fallback

    def prefill(self, request, ctx):
        ctx.tell(Fallback, why="it is Sunday")
        return Strategy.prefill(self, request, ctx)

    session = session_of()
    monkeypatch.setattr(Blend, "prefill", prefill)
    report = session.verify(ONE)

    assert report.ok
    assert any(row["note"] == "fell back: it is Sunday" for row in report.rows)


def test_a_budget_that_covers_a_short_chunk_is_tried_on_a_long_one(session_of):
    report = session_of().verify(f"{ONE}(first_k=64)")

    assert report.ok
    assert any("a long chunk" in row["note"] for row in report.rows)


def test_an_exception_is_a_failed_check(session_of, monkeypatch):
    def prefill(self, request, ctx):
        message = "no"
        raise RuntimeError(message)

    session = session_of()
    monkeypatch.setattr(Blend, "prefill", prefill)
    report = session.verify(ONE)

    assert any("raised" in row["check"] and row["note"] == "RuntimeError: no" for row in report.rows if not row["ok"])


def test_chunks_of_the_session_that_went_stale_are_seen(make_model, tokenizer, words):
    import nbkv

    with nbkv.load(make_model("llama"), tokenizer=tokenizer) as session:
        session.chunk(words(30), name="a")
        assert session.verify("full").ok
        # torch keeps no trace of such a write, so neither does the fingerprint
        session.adapter.model.model.layers[0].mlp.up_proj.weight.data.mul_(1.5)
        assert failures(session.verify("full")) == ["K/V in the store"]


def test_half_precision_gives_no_alarm(make_model, tokenizer):
    import nbkv

    with nbkv.load(make_model("qwen3").to(torch.bfloat16), tokenizer=tokenizer) as session:
        assert session.verify([ONE, "prefix"]).ok


@pytest.fixture
def links(model_of, tmp_path, monkeypatch):
    """Link tokens beside the model, for what wants trained ones."""
    from nbkv.models.link_tokens import NAME, Links, write_links

    llama = model_of("llama")
    noise = torch.randn(8, 5, llama.config.hidden_size, generator=torch.Generator().manual_seed(0))
    write_links(tmp_path / NAME, Links(noise))
    monkeypatch.setattr(llama, "name_or_path", str(tmp_path))


def test_a_model_that_does_not_repeat_itself_is_no_measure(session_of, monkeypatch):
    from nbkv.session.verification.model_answers import ModelAnswers

    session = session_of()
    monkeypatch.setattr(ModelAnswers, "has_kv", property(lambda _: False))
    own = type(session.adapter).plain

    def plain(self, ids):
        return own(self, ids) + (torch.randn(()) if len(ids) > 60 else 0.0)

    monkeypatch.setattr(type(session.adapter), "plain", plain)
    report = session.verify("full")

    assert report.ok
    assert any("otherwise each time" in row["note"] for row in report.rows)
