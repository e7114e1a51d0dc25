"""Every kind of tokenizer a decoder comes with: ids by the prompt rules, and text that streams as it is decoded."""

from __future__ import annotations

import io
import json
from functools import partial

import pytest
import torch
import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

import nbkv
from nbkv.errors import BadPrompt
from nbkv.models.codec import Codec
from nbkv.models.decode import TextStream
from nbkv.models.prompt import build
from nbkv.result import Chunk

CORPUS = [
    "the cat sat on the mat. a dog|0 ran, ran!",
    "another day, the cab\n said: héllo wörld — 你好",
    "who signed it? nobody did; and 12 + 30 = 42",
] * 20
TEXTS = (
    "the cat sat",
    " the cat, a day",
    "cat",
    "ran!\n the  mat ",
    "héllo 你好 🙂🙂 zz",
    "a</s> b <s> c <unk>",
    "<|turn|> the <|tool|> cat",
    "\n\n|a.0",
)
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def from_sentencepiece(folder, kind="bpe", cls="LlamaTokenizer", *, dummy=True, rule="identity", **config):
    """Return transformers' own conversion of a SentencePiece model."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=written,
        vocab_size=360,
        model_type=kind,
        add_dummy_prefix=dummy,
        byte_fallback=True,
        character_coverage=0.98,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        remove_extra_whitespaces=False,
        normalization_rule_name=rule,
    )
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": cls, "legacy": False} | config))
    return getattr(transformers, cls).from_pretrained(folder)


def unigram(_folder, *, scheme="first", unk=True, split=False):
    """Return a Unigram tokenizer, as converted from SentencePiece; its special tokens are pieces too."""
    specials = ["<s>", "</s>", "<unk>"] if unk else ["<s>", "</s>"]
    backend = Tokenizer(models.Unigram())
    metaspace = {"prepend_scheme": scheme, "split": True}
    parts = [pre_tokenizers.WhitespaceSplit()] if split else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*parts, pre_tokenizers.Metaspace(**metaspace)])
    backend.decoder = decoders.Metaspace(**metaspace)
    options = {"unk_token": "<unk>"} if unk else {}
    backend.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=150, special_tokens=specials, **options))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    named = {"bos_token": "<s>", "eos_token": "</s>"} | options
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def byte_level(_folder, *, bos=False, space=False, added=(), pad=False):
    """Return a byte-level BPE tokenizer, which needs no unknown token."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    backend.train_from_iterator(CORPUS, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    named = {"eos_token": "</s>"} | ({"bos_token": "<s>"} if bos else {}) | ({"pad_token": "</s>"} if pad else {})
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    tokenizer.add_tokens(list(added))
    return tokenizer


def characters(_folder):
    """Return a tokenizer of few characters that has neither BOS nor pad nor unknown token: others vanish."""
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate("cdehimost .|\n")}, []))
    backend.normalizer = normalizers.Lowercase()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend)


SPECIAL = (
    AddedToken("<|turn|>", special=True, lstrip=True),
    AddedToken("<|tool|>", special=True, rstrip=True, normalized=True),
    AddedToken("<|plain|>", special=False, normalized=False),
)
KINDS = {
    "sentencepiece bpe": partial(from_sentencepiece, add_bos_token=True),
    "sentencepiece bpe without bos": partial(from_sentencepiece, add_bos_token=False),
    "sentencepiece without dummy prefix": partial(
        from_sentencepiece, dummy=False, add_bos_token=True, add_prefix_space=False
    ),
    "gemma": partial(from_sentencepiece, cls="GemmaTokenizer", dummy=False),
    "unigram": unigram,
    "unigram without unk": partial(unigram, unk=False),
    "unigram by words": partial(unigram, scheme="always", split=True),
    "unigram without prefix": partial(unigram, scheme="never"),
    "t5": partial(from_sentencepiece, kind="unigram", cls="T5Tokenizer", rule="nmt_nfkc"),
    "byte level": byte_level,
    "byte level with bos and pad": partial(byte_level, bos=True, pad=True),
    "byte level with a prefix space": partial(byte_level, bos=True, space=True),
    "added tokens": partial(byte_level, added=SPECIAL),
    "characters": characters,
    "gpt-sw3": partial(from_sentencepiece, cls="GPTSw3Tokenizer", dummy=False),
}
LOSSLESS = {name for name in KINDS if name.startswith(("sentencepiece", "gemma", "byte", "added", "gpt-sw3"))}
NARROW = {"unigram without unk"}  # refuses what it has no token for
COVERED = " sat, the cat"  # what every vocabulary here can write


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tokenizers by kind, trained once."""
    known = {}

    def get(kind):
        if kind not in known:
            known[kind] = KINDS[kind](tmp_path_factory.mktemp("tokenizer") / "t")
        return known[kind]

    return get


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def tokenizer(kind, made):
    return made(kind)


@pytest.fixture
def codec(tokenizer):
    return Codec(tokenizer)


def ids(codec, prompt):
    return list(build(codec, prompt, "m", frozenset()).ids)


def special(tokenizer):
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}


def texts(kind):
    return TEXTS if kind not in NARROW else ("the cat", COVERED)


def streamed(codec, tokens, stop=()):
    stream, pieces = TextStream(codec, stop), []
    for token in tokens:
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    return stream, [*pieces, stream.finish()]


def test_text_is_tokenised_as_transformers_does(codec, tokenizer, kind):
    for text in texts(kind):
        assert ids(codec, text) == tokenizer(text)["input_ids"]


def test_bos_stands_before_a_list_if_the_tokenizer_adds_one(codec, tokenizer):
    whole = tokenizer("the cat")["input_ids"]
    bos = [tokenizer.bos_token_id] if whole[0] == tokenizer.bos_token_id else []

    assert list(codec.front) == bos
    assert ids(codec, ["the cat"]) == bos + tokenizer("the cat", add_special_tokens=False)["input_ids"]


def test_a_part_is_the_same_wherever_it_stands_behind_another(codec, kind):
    for text in texts(kind):
        part = codec.part(text, first=False)
        chunk = Chunk(name="c", text=text, token_ids=tuple(part), sink=(), model="m")
        for before in ("cat", "the mat", " "):
            start = ids(codec, [before])
            assert ids(codec, [before, text]) == start + part
            assert ids(codec, [before, chunk]) == start + part


def test_only_the_first_part_begins_a_text(codec, tokenizer, kind):
    if kind == "characters":
        pytest.skip("it writes no spaces, and decodes with one after each letter")
    for text in TEXTS if kind in LOSSLESS else (COVERED, "the cat", "at"):
        got = tokenizer.decode(ids(codec, ["cat", text])[len(codec.front) :])
        assert got.removeprefix(" ") == "cat" + text


def test_special_strings_in_parts_are_ordinary_text(codec, tokenizer, kind):
    if kind in NARROW:
        pytest.skip("it cannot write the brackets")
    for token in (tokenizer.decode([i]) for i in special(tokenizer)):
        text = f"at{token} a {token}the"
        for first in (True, False):
            got = codec.part(text, first=first)
            assert not special(tokenizer) & set(got)
            if kind in LOSSLESS:
                assert codec.text(got).removeprefix(" ") == text


def test_what_a_tokenizer_refuses_is_one_line(made):
    codec = Codec(made("unigram without unk"))
    for prompt in ("the 🙂", ["cat", "the 🙂"]):
        with pytest.raises(BadPrompt, match=r"cannot write '.*the 🙂"):
            ids(codec, prompt)


def test_a_template_may_write_special_tokens_its_parts_may_not(made):
    tokenizer = made("added tokens")
    turn, end = tokenizer.convert_tokens_to_ids(["<|turn|>", "</s>"])
    tokenizer.chat_template = TEMPLATE
    got = ids(Codec(tokenizer), [{"role": "user", "content": ["the <|turn|>", " cat</s>"]}])

    assert [i for i in got if i in special(tokenizer)] == [turn, end, turn]
    assert tokenizer.decode(got) == "<|turn|>user\nthe <|turn|> cat</s></s><|turn|>assistant\n"


@pytest.mark.parametrize("kind", ["added tokens", "byte level with bos and pad", "gemma"])
def test_messages_of_plain_text_are_what_transformers_makes_of_them(made, kind):
    tokenizer = made(kind)
    messages = [
        {"role": "user", "content": "the cat sat"},
        {"role": "assistant", "content": "a dog 🙂"},
        {"role": "user", "content": "who ran?"},
    ]
    tokenizer.chat_template = ("<s>" if Codec(tokenizer).front else "") + TEMPLATE
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    assert ids(Codec(tokenizer), messages) == list(whole)


def test_a_stream_is_the_decoded_text(codec, tokenizer, kind):
    draw = torch.Generator().manual_seed(0)
    answers = [tokenizer(text)["input_ids"][:cut] for text in texts(kind) for cut in (None, -1, -2)]
    answers += [torch.randint(len(tokenizer), (25,), generator=draw).tolist() for _ in range(40)]
    for answer in answers:
        stream, pieces = streamed(codec, answer)
        assert "".join(pieces) == stream.text == tokenizer.decode(answer, skip_special_tokens=True)


def test_text_comes_as_soon_as_it_is_certain(codec):
    _, pieces = streamed(codec, codec.part(COVERED * 4, first=True))

    assert sum(map(bool, pieces)) > 5
    assert not pieces[-1]


def test_a_stop_string_ends_text_and_stream_alike(codec, tokenizer, kind):
    for text in TEXTS if kind in LOSSLESS else (COVERED,):
        answer = codec.part(text, first=True)
        whole = codec.text(answer)
        for at in range(1, len(whole) - 2):
            stop = whole[at : at + 2]
            stream, pieces = streamed(codec, answer, (stop,))
            assert stream.stopped
            assert "".join(pieces) == stream.text == whole[: whole.index(stop)]


def test_a_stop_string_ends_the_answer_at_its_last_token(made):
    """Also where the token before it is one byte of a character: the next token must not be needed."""
    codec = Codec(made("sentencepiece bpe"))
    answer = codec.part("the 🙂 cat", first=True)
    last = codec.tokenizer.convert_ids_to_tokens(answer).index("<0x82>")
    stream, _ = streamed(codec, answer, ("🙂",))

    assert len(stream._ids) == last + 1


def test_a_session_serves_every_kind(make_model, tokenizer, kind):
    model = make_model("llama", vocab_size=max(len(tokenizer), 64), num_hidden_layers=2)
    with nbkv.load(model, tokenizer=tokenizer) as session:
        chat = session.chat()
        for turn in range(3):
            stream = session.stream([COVERED, "the cat"][: turn + 1], max_new_tokens=12, temperature=2.0, seed=turn)
            assert "".join(stream) == stream.result.text
            assert stream.result.text == tokenizer.decode(stream.result.token_ids, skip_special_tokens=True)
            result = chat.send(COVERED, max_new_tokens=6)
            if turn:
                before = chat.results[-2]
                done = before.prompt_ids + before.token_ids
                assert result.prompt_ids[: len(done)] == done
                assert result.tokens.reused == len(done) - 1
        chunk = session.chunk("the cat sat", name="cat")
        warm = session.generate([chunk, COVERED], max_new_tokens=6)
        asked = torch.tensor([warm.prompt_ids])
        expected = model.generate(
            asked, attention_mask=torch.ones_like(asked), max_new_tokens=6, do_sample=False, pad_token_id=1
        )

        assert warm.token_ids == tuple(expected[0, asked.shape[1] :].tolist())
        assert warm.tokens.reused >= (len(chunk) if Codec(tokenizer).front else 0)
