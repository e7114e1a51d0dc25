from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, MinLengthLogitsProcessor

from nbkv.errors import BadOption
from nbkv.models.sampling import Sampling, sampling
from nbkv.prompts.text_stream import TextStream
from nbkv.prompts.tokenizer import Codec


@pytest.mark.parametrize(
    "option",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 2.5},
        {"max_new_tokens": True},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"top_p": 0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"top_k": 2.0},
        {"repetition_penalty": 0},
        {"seed": -1},
        {"stop": ["a", ""]},
        {"max_tokens": 3},
    ],
)
def test_options_out_of_range_are_refused_in_one_line(option):
    stop = option.pop("stop", None)
    with pytest.raises(BadOption) as error:
        sampling(stop, option)

    assert "\n" not in str(error.value)
    assert "accepted" in str(error.value)


def test_a_misspelt_option_gets_a_hint():
    with pytest.raises(BadOption, match="max_new_tokens"):
        sampling(None, {"max_newtokens": 3})


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0},
        {"temperature": 2.5, "top_k": 0},
        {"temperature": 0.7, "top_k": 20},
        {"temperature": 1.3, "top_p": 0.8},
    ],
)
@pytest.mark.parametrize("seed", [0, 7])
def test_sampling_draws_what_generate_draws(session_of, words, options, seed):
    session, model = session_of("qwen3", strategy="full"), None
    model = session.adapter.model
    result = session.generate(words(30), max_new_tokens=15, seed=seed, **options)
    ids = torch.tensor([result.prompt_ids])
    torch.manual_seed(seed)
    expected = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        max_new_tokens=15,
        pad_token_id=1,
        **options,
    )

    assert list(result.token_ids) == expected[0, ids.shape[1] :].tolist()


def test_sampling_leaves_the_global_generator_alone(session_of, words):
    session = session_of()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = session.generate(words(10), max_new_tokens=10, temperature=1.0, seed=1)

    assert torch.equal(torch.get_rng_state(), before)
    assert session.generate(words(10), max_new_tokens=10, temperature=1.0, seed=1).token_ids == first.token_ids
    assert session.generate(words(10), max_new_tokens=10, temperature=1.0, seed=2).token_ids != first.token_ids


def test_greedy_ignores_the_models_sampling_defaults(make_model, tokenizer, words):
    import nbkv

    model = make_model("llama")
    model.generation_config.do_sample = True
    model.generation_config.temperature = 5.0
    with nbkv.load(model, tokenizer=tokenizer) as session:
        one, two = (session.generate(words(20), max_new_tokens=10, seed=s).token_ids for s in (1, 2))

    assert one == two


def test_suppressed_tokens_stay_suppressed(make_model, tokenizer, words):
    import nbkv

    model = make_model("llama")
    with nbkv.load(model, tokenizer=tokenizer) as session:
        first = session.generate(words(20), max_new_tokens=1).token_ids[0]
        model.generation_config.suppress_tokens = [first]
        assert session.generate(words(20), max_new_tokens=1).token_ids[0] != first


def test_processors_and_criteria_are_transformers_own(session_of, words):
    session = session_of()
    plain = session.generate(words(20), max_new_tokens=8)
    banned = plain.token_ids[2]

    class Ban:
        def __call__(self, input_ids, scores):
            scores[:, banned] = -float("inf")
            return scores

    changed = session.generate(words(20), max_new_tokens=8, logits_processor=LogitsProcessorList([Ban()]))
    stopped = session.generate(
        words(20),
        max_new_tokens=8,
        stopping_criteria=[lambda ids, scores, **_: torch.tensor([ids.shape[1] >= len(plain.prompt_ids) + 3])],
    )
    assert banned not in changed.token_ids
    assert stopped.token_ids == plain.token_ids[:3]
    assert stopped.finish_reason == "stop"
    assert MinLengthLogitsProcessor is not None


def test_eos_ends_the_answer_and_is_kept_in_the_ids_only(make_model, tokenizer, words):
    import nbkv

    model = make_model("llama")
    with nbkv.load(model, tokenizer=tokenizer) as session:
        plain = session.generate(words(20), max_new_tokens=8)
        model.generation_config.eos_token_id = [plain.token_ids[3], 1]
        ended = session.generate(words(20), max_new_tokens=8)

    assert ended.finish_reason == "stop"
    assert ended.token_ids == plain.token_ids[: plain.token_ids.index(plain.token_ids[3]) + 1]


def test_a_stop_string_is_cut_from_the_text_not_from_the_ids(session_of, words):
    session = session_of()
    plain = session.generate(words(20), max_new_tokens=10)
    stop = plain.text.split()[4]
    result = session.generate(words(20), max_new_tokens=10, stop=[stop])

    assert result.finish_reason == "stop"
    assert result.text == plain.text[: plain.text.index(stop)]
    assert len(result.token_ids) <= 5
    assert "".join(session.stream(words(20), max_new_tokens=10, stop=stop)) == result.text


@pytest.mark.parametrize("stop", [(), ("w7",), ("w99 w", "zz"), (" w5",)])
def test_pieces_add_up_to_the_text(tokenizer, stop):
    codec = Codec(tokenizer)
    for seed in range(20):
        ids = torch.randint(0, 199, (30,), generator=torch.Generator().manual_seed(seed)).tolist()
        stream, pieces = TextStream(codec, stop), []
        for token in ids:
            pieces.append(stream.add(token))
            if stream.stopped:
                break
        assert "".join(pieces) + stream.finish() == stream.text


def test_bytes_of_a_character_are_shown_when_complete():
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    codec = Codec(transformers.PreTrainedTokenizerFast(tokenizer_object=backend))
    stream = TextStream(codec, ())
    pieces = [stream.add(token) for token in codec.whole("né 日本")]

    assert "".join(pieces) == "né 日本"
    assert all("\ufffd" not in piece for piece in pieces)
    assert pieces[1] == ""


def test_numbers_of_numpy_are_numbers():
    given = {"max_new_tokens": np.int64(3), "temperature": np.float32(0.5), "seed": np.uint8(4), "top_p": np.float16(1)}
    made = sampling(None, given)

    assert made == Sampling(max_new_tokens=3, temperature=0.5, seed=4, top_p=1.0)
    assert {type(getattr(made, name)) for name in given} == {int, float}


@pytest.mark.parametrize(
    ("stop", "option"),
    [
        (5, {}),
        (b"x", {}),
        ({"a"}, {}),
        ({"a": "b"}, {}),
        ([5], {}),
        (None, {"logits_processor": len}),
        (None, {"logits_processor": [5]}),
        (None, {"stopping_criteria": 5}),
        (None, {"stopping_criteria": None}),
        (None, {"unmask": 5}),
    ],
    ids=str,
)
def test_options_of_other_types_are_refused_by_name(stop, option):
    with pytest.raises(BadOption, match=next(iter(option), "stop")) as error:
        sampling(stop, option)

    assert "accepted" in str(error.value)


def test_lists_are_copied():
    stop, processors = ["a"], [len]
    made = sampling(stop, {"logits_processor": processors})
    stop.append("b")
    processors.clear()

    assert (made.stop, made.logits_processor) == (("a",), (len,))


@pytest.mark.parametrize(
    "config",
    [
        {"top_k": 5, "repetition_penalty": 1.8},
        {"top_p": 0.5, "no_repeat_ngram_size": 1},
        {"min_p": 0.2},
        {"typical_p": 0.4},
        {"epsilon_cutoff": 0.05, "top_k": 0},
        {"eta_cutoff": 0.1},
        {"top_h": 0.4},
    ],
    ids=str,
)
def test_draws_take_what_the_generation_config_says(session_of, words, config, monkeypatch):
    session = session_of(strategy="full")
    model = session.adapter.model
    for name, value in config.items():
        monkeypatch.setattr(model.generation_config, name, value)
    for seed in (0, 1, 2):
        drawn = session.generate(words(30), max_new_tokens=12, temperature=1.7, seed=seed)
        ids = torch.tensor([drawn.prompt_ids])
        torch.manual_seed(seed)
        ask = {"do_sample": True, "temperature": 1.7, "max_new_tokens": 12, "pad_token_id": 1}
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), **ask)

        assert list(drawn.token_ids) == expected[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize(
    ("config", "greedy", "drawn"),
    [
        ({"repetition_penalty": 1.3}, "repetition_penalty=1.3", ""),
        (
            {"no_repeat_ngram_size": 3, "min_new_tokens": 5},
            "no_repeat_ngram_size=3, min_new_tokens=5",
            "min_new_tokens=5",
        ),
        ({"bad_words_ids": [[3]]}, "bad_words_ids=[[3]]", "bad_words_ids=[[3]]"),
        ({"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}, "", ""),
    ],
    ids=str,
)
def test_what_is_set_aside_is_noted(session_of, words, config, greedy, drawn, monkeypatch):
    session = session_of()
    for name, value in config.items():
        monkeypatch.setattr(session.adapter.model.generation_config, name, value)
    for temperature, expected in ((0, greedy), (1.0, drawn)):
        notes = session.generate(words(9), max_new_tokens=2, temperature=temperature).notes
        found = [note for note in notes if "generation_config" in note]

        assert found == [f"set aside of the model's generation_config: {expected}"] * bool(expected)
    own = session.generate(words(9), max_new_tokens=2, repetition_penalty=1.1)
    assert not any("repetition" in note for note in own.notes)


class Speak:
    """Has an answer say </s>, which does not end it, behind ``at`` tokens."""

    def __init__(self, at):
        self.at = at

    def __call__(self, ids, scores):
        if ids.shape[1] == self.at:
            scores[:] = -float("inf")
            scores[:, 1] = 0.0
        return scores


@pytest.mark.parametrize("stop", ["{special}", "{special} {after}", "{before} {special}", "{before}{special}"])
def test_a_special_token_may_be_what_stops(session_of, words, stop):
    session = session_of()
    n, tokenizer = len(session.generate(words(20), max_new_tokens=1).prompt_ids), session.tokenizer
    speak = {"logits_processor": LogitsProcessorList([Speak(n + 6)]), "max_new_tokens": 20}
    whole = session.generate(words(20), **speak)
    names = dict(
        zip(("before", "special", "after"), tokenizer.convert_ids_to_tokens(whole.token_ids[5:8]), strict=True)
    )
    text = stop.format(**names)
    stopped, streamed = session.generate(words(20), stop=text, **speak), session.stream(words(20), stop=text, **speak)

    # decoded words have a space between them, and a special token has none before it
    ends = {"{special}": 7, "{special} {after}": 8, "{before} {special}": 20, "{before}{special}": 7}[stop]
    assert whole.token_ids[6] == 1
    assert stopped.token_ids == whole.token_ids[:ends]
    assert "".join(streamed) == stopped.text
    cut = {"{special}": 6, "{special} {after}": 6, "{before} {special}": 20, "{before}{special}": 5}[stop]
    assert stopped.text.strip() == tokenizer.decode(whole.token_ids[:cut], skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["special", "special, with stop strings", "bytes"])
def test_what_a_token_costs_does_not_depend_on_those_before(tokenizer, kind):
    """Counted in tokens that are decoded, not in seconds."""
    codec = Codec(tokenizer)
    codec.byte_tokens = frozenset({3}) if kind == "bytes" else frozenset()
    decoded, text = [], codec.text

    def counted(ids):
        decoded.append(len(ids))
        return text(ids)

    codec.text = counted
    costs = []
    for n in (200, 400):
        decoded.clear()
        stream = TextStream(codec, ("w7 w8 w9",) if "stop" in kind else ())
        for _ in range(n):
            stream.add(3 if kind == "bytes" else 1)
        costs.append(sum(decoded))

    assert costs[1] <= 2 * costs[0] + 4
    assert costs[0] < 1000
