"""Attention over ranges of keys: the same logits as under a mask by true position, and no mask."""

import importlib
from dataclasses import replace

import pytest
import torch
from nbkv_kernels import dense_attention

from nbkv.models.attention import masks, weights
from nbkv.models.attention.intercept import computed_by, watched
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.probing.probe import adapt
from nbkv.models.work import Work

IDS = torch.arange(3, 103) * 7 % 60
ROWS = torch.tensor([1, 2, 40, 41, 77, 99])


def recomputed(adapter, *, ranges):
    adapter = replace(adapter, capabilities=replace(adapter.capabilities, ranges=ranges))
    cache = GrowingCache()
    adapter.forward(IDS, cache, start=0)
    for layer in cache.layers:
        layer.keys[:, :, ROWS] += 1.0
    return adapter.recompute(IDS[ROWS], ROWS, cache, keep=len(ROWS)), cache.read(0, 100)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "mistral", "cohere2", "phi", "gemma3n"])
def test_rows_run_again_over_ranges_equal_those_under_a_mask(make_model, family):
    adapter = adapt(make_model(family), family)
    assert adapter.capabilities.ranges
    under, masked = recomputed(adapter, ranges=False)
    over, ranged = recomputed(adapter, ranges=True)
    assert (under - over).abs().max() < 1e-5 * max(1.0, float(under.abs().max()))
    for one, other in zip(masked.keys, ranged.keys, strict=True):
        assert (one - other).abs().max() < 1e-4


def test_no_mask_is_made(make_model, monkeypatch):
    adapter = adapt(make_model("llama"), "llama")
    monkeypatch.setattr(masks, "allowed", lambda *_: pytest.fail("a mask was made"))
    recomputed(adapter, ranges=True)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "cohere2", "gemma3n"])
def test_while_attention_is_watched_no_mask_is_made_either(make_model, monkeypatch, family):
    adapter = adapt(make_model(family), family)
    monkeypatch.setattr(weights, "_MOST", 2 * 4 * len(IDS))  # strips of two rows
    under, over = [], []
    with watched(adapter.config, torch.tensor([0, 2, 3, 4, 5]), under.append):
        recomputed(adapter, ranges=False)
    monkeypatch.setattr(masks, "allowed", lambda *_: pytest.fail("a mask was made"))
    with watched(adapter.config, torch.tensor([0, 2, 3, 4, 5]), over.append):
        recomputed(adapter, ranges=True)
    assert len(over) == len(under) == 2 * 3 * adapter.n_layers  # the prompt was run too, under the model's own mask
    for one, other in zip(over, under, strict=True):
        assert len(one.rows) <= 2
        assert (one.layer, one.rows.tolist()) == (other.layer, other.rows.tolist())
        assert (one.weights - other.weights).abs().max() < 1e-5
        assert (one.output - other.output).abs().max() < 1e-4


@pytest.mark.parametrize(("family", "heads"), [("llama", 1), ("gemma2", 4)])
def test_masks_and_capped_scores_are_written_out_for_few_rows_at_a_time(make_model, monkeypatch, family, heads):
    adapter, sizes = adapt(make_model(family), family), []
    kernel = importlib.import_module("nbkv_kernels.row_attention")

    def dense(q, k, v, **options):
        sizes.append(heads * q.shape[2] * k.shape[2])
        return dense_attention(q, k, v, **options)

    plain = recomputed(adapter, ranges=True)[0]
    monkeypatch.setattr(kernel, "dense_attention", dense)
    monkeypatch.setattr(kernel, "_MASK", 400)
    assert (recomputed(adapter, ranges=True)[0] - plain).abs().max() < 1e-4
    assert len(sizes) > adapter.n_layers
    assert max(sizes) <= 400


def test_whoever_stands_between_has_ranges_handed_on(make_model):
    adapter, cache, layers = adapt(make_model("gemma2"), "gemma2"), GrowingCache(), []
    expected = adapter.forward(IDS, cache, start=0, keep=len(IDS))[ROWS]
    with computed_by(adapter.config, lambda seen: layers.append(seen.layer)):
        got = adapter.recompute(IDS[ROWS], ROWS, cache, keep=len(ROWS))
    assert (got - expected).abs().max() < 1e-4 * max(1.0, float(expected.abs().max()))
    assert layers == list(range(adapter.n_layers))


def test_the_models_own_function_is_back_also_after_an_error(make_model):
    adapter = adapt(make_model("llama"), "llama")
    before = adapter.config._attn_implementation

    def fail(_):
        raise RuntimeError

    with pytest.raises(RuntimeError):
        adapter.recompute(IDS[ROWS], ROWS, GrowingCache(), before=fail)
    assert adapter.config._attn_implementation == before


@pytest.mark.parametrize(
    ("window", "chunk", "block"), [(None, None, None), (5, None, None), (None, 8, None), (9, None, 4)]
)
def test_edges_are_those_of_a_mask_written_out(window, chunk, block):
    rows = torch.arange(30)
    lower, upper = masks.edges(rows, window, chunk, block)
    for row in range(30):
        seen = [
            key
            for key in range(40)
            if (key <= row if block is None else key // block <= row // block)
            and (window is None or row - key < window)
            and (chunk is None or key // chunk == row // chunk)
        ]
        assert list(range(int(lower[row]), int(upper[row]))) == seen


def test_a_prompt_of_a_block_diffusion_model_runs_in_one_pass_where_it_needs_no_mask(session_of, monkeypatch):
    adapter = session_of("sdar").adapter
    assert adapter.capabilities.ranges
    monkeypatch.setattr("nbkv.models.adapter._STRIP", 8)
    ran, found = {}, {}
    for ranges in (True, False):
        one = replace(adapter, capabilities=replace(adapter.capabilities, ranges=ranges))
        cache, passes = GrowingCache(), []
        work = Work(on_layer=lambda index, rows, passes=passes: passes.append(rows) if index == 0 else None)
        one.prefill(IDS.tolist(), cache, work=work)
        ran[ranges], found[ranges] = passes, cache.read(0, 100)
    assert ran == {True: [100], False: [8] * 12 + [4]}
    for strips, whole in zip(found[False].values, found[True].values, strict=True):
        assert (strips - whole).abs().max() < 1e-4


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("start", [0, 1, 40])
def test_a_long_prompt_behind_cached_tokens_runs_in_strips_so_that_no_mask_is_large(
    session_of, monkeypatch, family, start
):
    adapter = session_of(family).adapter
    monkeypatch.setattr("nbkv.models.adapter._MOST_MASK", 1000)
    whole, cache, passes = adapter.plain(IDS)[-1], adapter.new_cache(), []
    adapter.prefill(IDS.tolist()[:start], cache)
    work = Work(on_layer=lambda index, rows: passes.append(rows) if index == 0 else None)
    logits = adapter.prefill(IDS.tolist(), cache, start=start, work=work)
    assert sum(passes) == 100 - start
    assert max(passes) == (10 if start else 100)
    assert (logits - whole).abs().max() < 1e-3


def decoded(adapter, monkeypatch, *, least):
    """Return the logits of ten tokens that are run one by one, and how many layers attended over ranges."""
    module, passes = importlib.import_module("nbkv.models.attention.ranges"), []
    monkeypatch.setattr(module, "_WIDE", least)
    monkeypatch.setattr(module, "_HALF", least)
    with monkeypatch.context() as patched:
        attend = importlib.import_module("nbkv.models.attention.intercept").row_attention
        patched.setattr(
            "nbkv.models.attention.intercept.row_attention", lambda *a, **b: passes.append(1) or attend(*a, **b)
        )
        cache = GrowingCache()
        adapter.forward(IDS[:90], cache, start=0)
        rows = [adapter.forward(IDS[at : at + 1], cache, start=at)[-1] for at in range(90, 100)]
    return torch.stack(rows), len(passes)


@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral", "cohere2"])
def test_one_row_whose_heads_read_keys_together_gives_the_same_logits(make_model, monkeypatch, family):
    adapter = adapt(make_model(family), family)
    assert adapter.capabilities.groups > 1
    own, none = decoded(adapter, monkeypatch, least=10**9)
    together, all_layers = decoded(adapter, monkeypatch, least=1)
    assert (none, all_layers) == (0, 10 * adapter.n_layers)
    assert (own - together).abs().max() < 1e-5 * max(1.0, float(own.abs().max()))


def test_heads_that_share_no_keys_are_left_to_the_model(make_model, monkeypatch):
    adapter = adapt(make_model("gpt2"), "gpt2")
    assert decoded(adapter, monkeypatch, least=1)[1] == 0


def test_eager_attention_is_left_to_the_model_with_its_weights(make_model, monkeypatch):
    model = make_model("llama")
    model.set_attn_implementation("eager")  # the default of gemma2
    adapter, weights_seen = adapt(model, "llama"), []
    model.model.layers[0].self_attn.register_forward_hook(lambda *given: weights_seen.append(given[2][1]))
    assert decoded(adapter, monkeypatch, least=1)[1] == 0
    assert [each.shape[-2:] for each in weights_seen[1:]] == [(1, at) for at in range(91, 101)]


def test_in_half_precision_it_is_as_near_to_float32(make_model, monkeypatch):
    exact = decoded(adapt(make_model("llama"), "llama"), monkeypatch, least=10**9)[0]
    half = adapt(make_model("llama").to(torch.bfloat16), "llama")
    own, together = (decoded(half, monkeypatch, least=least)[0].float() for least in (10**9, 1))
    assert (together - exact).square().mean() <= 1.2 * (own - exact).square().mean()
