"""Text as it streams is text as it is decoded, for every kind of tokenizer."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessorList

import nbkv
from nbkv.prompts.text_stream import TextStream
from nbkv.prompts.tokenizer import Codec

COVERED = " sat, the cat"  # what every vocabulary here can write


def streamed(codec, tokens, stop=()):
    stream, pieces = TextStream(codec, stop), []
    for token in tokens:
        pieces.append(stream.add(token))
        if stream.stopped:
            break
    return stream, [*pieces, stream.finish()]


def test_a_stream_is_the_decoded_text(codec, tokenizer, texts):
    draw = torch.Generator().manual_seed(0)
    answers = [tokenizer(text)["input_ids"][:cut] for text in texts for cut in (None, -1, -2)]
    answers += [torch.randint(len(tokenizer), (25,), generator=draw).tolist() for _ in range(40)]
    for answer in answers:
        stream, pieces = streamed(codec, answer)
        assert "".join(pieces) == stream.text == tokenizer.decode(answer, skip_special_tokens=True)


def test_text_comes_as_soon_as_it_is_certain(codec):
    _, pieces = streamed(codec, codec.part(COVERED * 4, first=True))

    assert sum(map(bool, pieces)) > 5
    assert not pieces[-1]


def test_a_stop_string_ends_text_and_stream_alike(codec, readable):
    for text in readable:
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


def test_a_session_serves_every_kind(make_model, tokenizer):
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
        assert warm.tokens.reused >= (len(chunk) if Codec(tokenizer).bos_ids else 0)


class Speak:
    """Has an answer say </s>, which does not end it, behind ``at`` tokens."""

    def __init__(self, at, end):
        self.at, self.end = at, end

    def __call__(self, ids, scores):
        if ids.shape[1] == self.at:
            scores[:] = -float("inf")
            scores[:, self.end] = 0.0
        return scores


@pytest.mark.parametrize("kind", ["byte level", "sentencepiece bpe"])
def test_a_special_token_stops_where_transformers_stops(make_model, tokenizer):
    end = tokenizer.convert_tokens_to_ids("</s>")
    model = make_model("llama", vocab_size=max(len(tokenizer), 64), num_hidden_layers=2)
    with nbkv.load(model, tokenizer=tokenizer) as session:
        n = len(session.generate(COVERED, max_new_tokens=1).prompt_ids)
        for at in (0, 3, 11):
            ask = {"logits_processor": LogitsProcessorList([Speak(n + at, end)]), "max_new_tokens": 20}
            stopped = session.generate(COVERED, stop=["</s>"], **ask)
            ids = torch.tensor([stopped.prompt_ids])
            ask |= {"do_sample": False, "pad_token_id": 1, "stop_strings": ["</s>"], "tokenizer": tokenizer}
            expected = model.generate(ids, attention_mask=torch.ones_like(ids), **ask)

            assert list(stopped.token_ids) == expected[0, n:].tolist()
            assert (stopped.finish_reason, stopped.token_ids[-1]) == ("stop", end)
            assert "</s>" not in stopped.text
