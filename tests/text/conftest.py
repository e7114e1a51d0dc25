"""Tokenizers of every kind a decoder comes with, trained here on a few lines."""

from __future__ import annotations

import io
import json
from functools import partial

import pytest
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

from nbkv.prompts.tokenizer import Codec

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


@pytest.fixture
def lossless(kind):
    """Whether every text can be written and read back."""
    return kind in LOSSLESS


@pytest.fixture
def texts(kind):
    """Texts that the tokenizer takes."""
    return TEXTS if kind not in NARROW else ("the cat", COVERED)


@pytest.fixture
def readable(lossless):
    """Texts that it can read back."""
    return TEXTS if lossless else (COVERED, "the cat", "at")


@pytest.fixture
def special(tokenizer):
    """Ids of special tokens; what is unknown is none of them."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return (added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id}
