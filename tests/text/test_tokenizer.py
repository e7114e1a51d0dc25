"""Token ids by the prompt rules, for every kind of tokenizer."""

from __future__ import annotations

import pytest

from nbkv.errors import BadPrompt
from nbkv.prompts.prompt import build
from nbkv.prompts.tokenizer import Codec
from nbkv.result import Chunk

TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def ids(codec, prompt):
    return list(build(codec, prompt, "m", frozenset()).ids)


def test_text_is_tokenised_as_transformers_does(codec, tokenizer, texts):
    for text in texts:
        assert ids(codec, text) == tokenizer(text)["input_ids"]


def test_bos_stands_before_a_list_if_the_tokenizer_adds_one(codec, tokenizer):
    whole = tokenizer("the cat")["input_ids"]
    bos = [tokenizer.bos_token_id] if whole[0] == tokenizer.bos_token_id else []

    assert list(codec.bos_ids) == bos
    assert ids(codec, ["the cat"]) == bos + tokenizer("the cat", add_special_tokens=False)["input_ids"]


def test_a_part_is_the_same_wherever_it_stands_behind_another(codec, texts):
    for text in texts:
        part = codec.part(text, first=False)
        chunk = Chunk(name="c", text=text, token_ids=tuple(part), sink=(), model="m")
        for before in ("cat", "the mat", " "):
            start = ids(codec, [before])
            assert ids(codec, [before, text]) == start + part
            assert ids(codec, [before, chunk]) == start + part


def test_only_the_first_part_begins_a_text(codec, tokenizer, kind, readable):
    if kind == "characters":
        pytest.skip("it writes no spaces, and decodes with one after each letter")
    for text in readable:
        got = tokenizer.decode(ids(codec, ["cat", text])[len(codec.bos_ids) :])
        assert got.removeprefix(" ") == "cat" + text


def test_special_strings_in_parts_are_ordinary_text(codec, tokenizer, kind, special, lossless):
    if kind == "unigram without unk":
        pytest.skip("it cannot write the brackets")
    for token in (tokenizer.decode([i]) for i in special):
        text = f"at{token} a {token}the"
        for first in (True, False):
            got = codec.part(text, first=first)
            assert not special & set(got)
            if lossless:
                assert codec.text(got).removeprefix(" ") == text


def test_what_a_tokenizer_refuses_is_one_line(made):
    codec = Codec(made("unigram without unk"))
    for prompt in ("the 🙂", ["cat", "the 🙂"]):
        with pytest.raises(BadPrompt, match=r"cannot write '.*the 🙂"):
            ids(codec, prompt)


@pytest.mark.parametrize("kind", ["added tokens"])
def test_a_template_may_write_special_tokens_its_parts_may_not(tokenizer, special):
    turn, end = tokenizer.convert_tokens_to_ids(["<|turn|>", "</s>"])
    tokenizer.chat_template = TEMPLATE
    got = ids(Codec(tokenizer), [{"role": "user", "content": ["the <|turn|>", " cat</s>"]}])

    assert [i for i in got if i in special] == [turn, end, turn]
    assert tokenizer.decode(got) == "<|turn|>user\nthe <|turn|> cat</s></s><|turn|>assistant\n"


@pytest.mark.parametrize("kind", ["added tokens", "byte level with bos and pad", "gemma"])
def test_messages_of_plain_text_are_what_transformers_makes_of_them(tokenizer):
    messages = [
        {"role": "user", "content": "the cat sat"},
        {"role": "assistant", "content": "a dog 🙂"},
        {"role": "user", "content": "who ran?"},
    ]
    tokenizer.chat_template = ("<s>" if Codec(tokenizer).bos_ids else "") + TEMPLATE
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    assert ids(Codec(tokenizer), messages) == list(whole)
