from __future__ import annotations

import re
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np
import pytest

from nbkv.errors import BadPrompt
from nbkv.prompts.prompt import build
from nbkv.prompts.tokenizer import Codec
from nbkv.result import Chunk

CHATML = (
    "{% for m in messages %}<s>{{ m.role }} {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant {% endif %}"
)


def chunk(codec, text, name="c", model="m"):
    ids = tuple(codec.part(text, first=False))
    return Chunk(name=name, text=text, token_ids=ids, sink=(), model=model)


def ids(codec, prompt, eos=frozenset({1})):
    return list(build(codec, prompt, "m", eos).ids)


@pytest.fixture
def codec(tokenizer):
    return Codec(tokenizer)


@pytest.fixture(scope="session")
def spaced():
    """A tokenizer that marks the beginning of a text as SentencePiece does."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=120, special_tokens=["<s>", "</s>", "<unk>"], initial_alphabet=[*"abc|.\n0"]
    )
    backend.train_from_iterator(["the cat sat on the mat. a dog|0", "another day, the cab\n"] * 20, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return Codec(transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>"))


def test_text_is_tokenised_as_transformers_does(codec, tokenizer, words):
    assert ids(codec, words(9)) == tokenizer(words(9))["input_ids"]


def test_a_list_is_bos_then_each_part_alone(codec, tokenizer):
    alone = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in ("w1 w2", "w3")]

    assert ids(codec, ["w1 w2", "w3"]) == [0, *alone[0], *alone[1]]


def test_the_same_text_later_is_a_later_part(spaced):
    text = "the cat"
    got = ids(spaced, [text, text])

    assert got == [0, *spaced.part(text, first=True), *spaced.part(text, first=False)]


def test_no_bos_where_the_tokenizer_adds_none(make_tokenizer):
    codec = Codec(make_tokenizer(bos=False))

    assert codec.bos_ids == ()
    assert ids(codec, ["w1", "w2"]) == [4, 5]


def test_special_strings_in_parts_are_ordinary_text(codec):
    assert 1 not in ids(codec, ["w1 </s> w2"])
    assert 1 in ids(codec, "w1 </s> w2")


def test_spans_tell_where_chunks_stand(codec):
    piece = chunk(codec, "w5 w6 w7")
    built = build(codec, ["w1", piece, "w2", piece], "m", frozenset())

    assert [(c.name, start, stop) for c, start, stop in built.chunks] == [("c", 2, 5), ("c", 6, 9)]
    assert built.ids[2:5] == piece.token_ids == built.ids[6:9]


def test_only_a_first_text_part_begins_a_text(spaced):
    first, later = ids(spaced, ["the cat"]), ids(spaced, ["a", "the cat"])
    marked = spaced.tokenizer.convert_ids_to_tokens(first[1:])
    plain = spaced.tokenizer.convert_ids_to_tokens(later[2:])

    assert marked[0].startswith("▁")
    assert not plain[0].startswith("▁")
    assert spaced.text(later) == "athe cat"


def test_a_chunks_ids_do_not_depend_on_its_place(spaced):
    piece = chunk(spaced, "the mat")

    assert ids(spaced, [piece])[1:] == list(piece.token_ids)
    assert ids(spaced, ["a dog", piece])[-len(piece) :] == list(piece.token_ids)


def test_messages_go_through_the_template(make_tokenizer):
    tokenizer = make_tokenizer(bos=False, template=CHATML.replace("<s>", "w9 ").replace("</s>", " w8 "))
    codec = Codec(tokenizer)
    messages = [{"role": "w1", "content": "w2 w3"}, {"role": "w1", "content": ["w4", "w5"]}]
    whole = tokenizer.apply_chat_template(
        [{"role": "w1", "content": "w2 w3"}, {"role": "w1", "content": "w4 w5"}],
        add_generation_prompt=True,
        return_dict=False,
    )

    assert ids(codec, messages) == list(whole)


def test_special_tokens_of_the_template_are_special_those_of_the_user_are_not(make_tokenizer):
    codec = Codec(make_tokenizer(bos=False, template=CHATML))
    got = ids(codec, [{"role": "w1", "content": "</s> w2"}])

    assert got.count(1) == 1
    assert got[0] == 0


def test_bos_stands_once(make_tokenizer):
    codec = Codec(make_tokenizer(template="<s>{% for m in messages %} {{ m.content }}{% endfor %}"))

    assert ids(codec, [{"role": "user", "content": "w2"}]) == [0, 5]


def test_an_answers_own_end_is_not_written_again(make_tokenizer):
    template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    codec = Codec(make_tokenizer(bos=False, template=template))
    answer = Chunk(name="answer", text="w3", token_ids=(6, 1), sink=(), model="m")
    cut = Chunk(name="answer", text="w3", token_ids=(6,), sink=(), model="m")
    after = {"role": "user", "content": "w4"}

    assert ids(codec, [{"role": "assistant", "content": answer}, after]) == [6, 1, 7, 1]
    assert ids(codec, [{"role": "assistant", "content": cut}, after]) == [6, 1, 7, 1]


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("", "empty"),
        ([], "empty"),
        (["w1", ""], "empty"),
        (["w1", 3], "int"),
        ([{"role": "user"}], "content"),
        ([{"role": "user", "content": "w1"}], "no chat template"),
    ],
)
def test_bad_prompts_say_what_is_accepted(codec, prompt, says):
    with pytest.raises(BadPrompt, match=says):
        ids(codec, prompt)


def test_a_chunk_of_another_model_is_refused(codec):
    with pytest.raises(BadPrompt, match="another model"):
        ids(codec, [chunk(codec, "w1", model="other")])


def test_a_template_that_refuses_says_why_in_one_line(make_tokenizer):
    codec = Codec(make_tokenizer(template="{{ raise_exception('only user and assistant') }}"))

    with pytest.raises(BadPrompt, match="only user and assistant"):
        ids(codec, [{"role": "system", "content": "w1"}])


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (None, "the prompt is None"),
        (5, "the prompt is an int"),
        (PurePosixPath("a"), "the prompt is a PurePosixPath"),
        (b"text", "the prompt is a bytes"),
        ({"w1", "w2"}, "the prompt is a set"),
        ({"role": "user", "content": "w1"}, "the prompt is a dict: one message goes into a list"),
        (np.array([1, 2]), "the prompt is a ndarray"),
        (iter(["w1"]), "the prompt is a list_iterator"),
        ([1, 2, 3], "a part of the prompt is an int: a prompt is text, not token ids"),
        ([np.int64(1)], "a part of the prompt is an int64: a prompt is text"),
        ([["w1"]], "a part of the prompt is a list"),
        ([None], "a part of the prompt is None"),
        (["w1", {"role": "user", "content": "w1"}], "a part of the prompt is a dict"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_prompt_is_named_before_anything_is_read(codec, prompt, says):
    with pytest.raises(BadPrompt, match=re.escape(says)) as caught:
        ids(codec, prompt)

    assert "accepted" in str(caught.value)


def test_what_a_tokenizer_gives_is_no_prompt(codec, tokenizer):
    with pytest.raises(BadPrompt, match="a BatchEncoding: give the text itself"):
        ids(codec, tokenizer("w1 w2"))


@pytest.mark.parametrize("kind", [tuple, deque, list])
def test_every_sequence_of_parts_is_a_list(codec, kind):
    assert ids(codec, kind(["w1", np.str_("w2")])) == [0, 4, 5]


def test_six_threads_share_a_tokenizer(make_tokenizer):
    """Whether special tokens are split is a setting of the tokenizer: a text must not get another thread's."""
    tokenizer = make_tokenizer(bos=False, template=CHATML)
    codecs = [Codec(tokenizer) for _ in range(3)]
    text = "w1 </s> w2"
    forms = (text, [text], [{"role": "w1", "content": text}])
    expected = [ids(codecs[0], form) for form in forms]

    def wrong(number):
        return sum(
            ids(codecs[(number + turn) % 3], form) != right
            for turn in range(80)
            for form, right in zip(forms, expected, strict=True)
        )

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(wrong, range(6))) == 0
    finally:
        sys.setswitchinterval(switch)
    assert expected[0] != expected[1]


@pytest.mark.parametrize("text", ["w1 zebra w2", "zebra", "zebra quagga"])
def test_words_that_the_tokenizer_does_not_know_are_counted(codec, text):
    unknown = sum(not word.startswith("w") for word in text.split())
    assert codec.unknown(codec.whole(text)) == unknown
    assert codec.unknown(codec.whole("w1 w2")) == 0


def test_words_that_the_tokenizer_does_not_know_are_noted(session_of):
    session = session_of()
    assert any("does not know 2 of" in note for note in session.generate("w1 zebra quagga", max_new_tokens=1).notes)
    assert not any("know" in note for note in session.generate("w1 w2", max_new_tokens=1).notes)
