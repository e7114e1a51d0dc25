from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessorList, MinLengthLogitsProcessor

from nbkv.errors import BadOption
from nbkv.models.sampling import sampling
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
        {"top_k": 0},
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
    "options", [{"temperature": 1.0}, {"temperature": 0.7, "top_k": 20}, {"temperature": 1.3, "top_p": 0.8}]
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
        **({"top_k": 0} | options),
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
