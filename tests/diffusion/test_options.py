"""What is accepted and what is refused, each in one line that says the fix."""

from __future__ import annotations

import pytest
import torch

import nbkv
from nbkv.errors import BadOption, UnsupportedModel
from nbkv.models.unmask import Candidates, parse


@pytest.fixture
def load(make_model, make_tokenizer):
    def open_session(told, **options):
        return nbkv.load(make_model("qwen3", **told), tokenizer=make_tokenizer(), **options)

    return open_session


def test_a_causal_model_is_not_decoded_in_blocks(load):
    with pytest.raises(UnsupportedModel, match=r"causal and decodes token by token.*leave block_size out"):
        load({}, block_size=4)
    with load({}) as session, pytest.raises(BadOption, match=r"masks nothing .leave it out"):
        session.generate("w1 w2", unmask="static")
    with load({}) as session:
        assert session.adapter.capabilities.causal
        assert session.generate("w1 w2", max_new_tokens=2).decoding is None


def test_a_missing_mask_token_is_told(load, make_model, make_tokenizer):
    for told in ({"block_size": 4}, {"block_size": 4, "nbkv_decoding": "block_diffusion"}):
        with pytest.raises(UnsupportedModel, match=r"no mask token .set mask_token_id in its config.json"):
            load(told, block_size=4)
    with pytest.raises(UnsupportedModel, match="no mask token"):
        load({"block_size": 4, "nbkv_decoding": "block_diffusion"})
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"mask_token": "w190"})
    with nbkv.load(make_model("qwen3", block_size=4), tokenizer=tokenizer) as session:
        assert session.adapter.recipe.mask == tokenizer.convert_tokens_to_ids("w190")


def test_block_sizes_a_model_was_not_made_for(load):
    plain, listed = {"block_size": 8, "mask_token_id": 198}, {"block_sizes": [4, 8, 16]}
    for told, size in ((plain, 3), (plain, 16), (plain | listed, 2), (plain, 0), (plain, "4"), (plain, True)):
        with pytest.raises(BadOption, match=r"block_size=.* is not accepted: .* decodes in blocks of 8 \("):
            load(told, block_size=size)
    for told, size in ((plain, 2), (plain, 8), (plain | listed, 16)):
        with load(told, block_size=size) as session:
            assert session.adapter.capabilities.block == size
            assert session.generate("w1 w2", max_new_tokens=3).decoding["block"] == size


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("dynamic(threshold=1.5)", "threshold=1.5 is not accepted: threshold is a probability between 0 and 1"),
        ("dynamic(threshold=-0.1)", "between 0 and 1"),
        ("dynamic(threshold=True)", "between 0 and 1"),
        ("dynamic(0.9, 2)", "options of dynamic are steps, threshold"),
        ("dynamic(speed=2)", "options of dynamic are steps, threshold"),
        ("static(steps=0)", "steps=0 is not accepted"),
        ("entropy(bound=-1)", "bound=-1 is not accepted"),
        ("entropy(steps=2)", "options of entropy are bound"),
        ("dynamc", "did you mean 'dynamic'"),
        ("static(steps=)", "cannot read the options"),
        (3, "unmask=3 is not accepted"),
    ],
)
def test_wrong_rules_are_refused(sdar, spec, says):
    with pytest.raises(BadOption) as refusal:
        sdar(4).generate("w1 w2", unmask=spec)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_value_without_a_name_is_the_rule_s_own():
    assert parse("dynamic(0.85)") == parse("dynamic(threshold=0.85)")
    assert parse("entropy(0.3)") == parse("entropy(bound=0.3)")
    assert parse("static(4)") == parse(" static ( steps=4 ) ")


def candidates(confidence, size=8, step=0):
    sure = torch.tensor(confidence)
    rest = (1 - sure) / 3
    return Candidates(sure, torch.stack([sure, rest, rest, rest], dim=-1), size, step)


def test_what_the_rules_take():
    among = candidates([0.5, 0.95, 0.4, 0.91, 0.3])

    assert parse("static").pick(among).tolist() == [False, True, False, False, False]
    assert parse("static(steps=4)").pick(among).tolist() == [False, True, False, True, False]
    assert parse("dynamic(0.9)").pick(among).tolist() == [False, True, False, True, False]
    assert parse("dynamic(0.93, steps=4)").pick(among).tolist() == [False, True, False, True, False]
    assert parse("dynamic(1.0)").pick(among).sum() == 1
    assert parse("sequential(steps=4)").pick(among).tolist() == [True, True, False, False, False]
    assert parse("entropy(0.0)").pick(among).tolist() == [False, True, False, False, False]
    assert parse("entropy(100.0)").pick(among).all()


def test_a_schedule_takes_a_block_in_so_many_passes():
    for size, steps in ((4, 4), (8, 3), (32, 5), (4, 9)):
        rule = parse(f"static(steps={steps})")
        counts = [int(rule.pick(candidates([0.5] * size, size, step)).sum()) for step in range(min(steps, size))]

        assert sum(counts) == size
        assert max(counts) - min(counts) <= 1
        assert counts == sorted(counts, reverse=True)


def test_a_model_that_ignores_the_mask_is_refused(make_model, make_tokenizer, monkeypatch):
    model = make_model("qwen3", block_size=4, mask_token_id=198)
    own = model.forward

    def causal_whatever_is_asked(*args, attention_mask=None, **kwargs):
        return own(*args, **kwargs)

    causal_whatever_is_asked.__signature__ = __import__("inspect").signature(own)
    monkeypatch.setattr(model, "forward", causal_whatever_is_asked)
    with pytest.raises(UnsupportedModel, match="ignores the mask"):
        nbkv.load(model, tokenizer=make_tokenizer())


def test_what_is_proved_is_remembered_by_block_size(make_model, make_tokenizer, tmp_path, monkeypatch):
    from nbkv.models import loading

    folder = tmp_path / "model"
    make_model("qwen3", block_size=8, mask_token_id=198).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    probed = []
    own = loading.probe
    monkeypatch.setattr(loading, "probe", lambda *args: probed.append(args[-1].block) or own(*args))
    for size in (8, 4, 8, 4):
        with nbkv.load(str(folder), block_size=size) as session:
            assert session.adapter.capabilities.block == size
            assert session.generate("w1 w2 w3", max_new_tokens=2).decoding["block"] == size
    assert probed == [8, 4]


def test_the_context_ends_at_a_whole_block(make_model, make_tokenizer, words):
    model = make_model("qwen3", block_size=8, mask_token_id=198, max_position_embeddings=60)
    with nbkv.load(model, tokenizer=make_tokenizer(bos=False)) as session:
        assert session.adapter.capabilities.context == 56
        got = session.generate(words(50), max_new_tokens=64)
        assert len(got.token_ids) == 6
        assert any("limited to 6 tokens" in note for note in got.notes)
        with pytest.raises(nbkv.BadPrompt, match="context is 56"):
            session.generate(words(56))
