"""Edited conversations: a turn is put in place of another, thinking is left out, and what stands behind is moved."""

from __future__ import annotations

from random import Random

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import nbkv
from nbkv.prompts.thinking import without_thinking
from nbkv.result import Chunk, Provenance

PLAIN = "{% for m in messages %}# {{ m.content }} $ {% endfor %}{% if add_generation_prompt %}# {% endif %}"


def answer(pieces):
    ids = tuple(range(100, 100 + len(pieces)))
    return Chunk(name="answer", text="".join(pieces), token_ids=ids, sink=(1, 2), model="m", lineage="exact")


@pytest.mark.parametrize(
    ("pieces", "cut"),
    [
        (["<think>", " so", "</think>", "\n\n", "Yes", "."], 4),
        (["<think>", " so", "</think>", "Yes", "."], 3),
        ([" so", "</", "think", ">\n\n", "Yes", "."], 4),
        (["a", "</think>", "b", "</think>", "\n", "\n", "Yes", "."], 6),
        (["[THINK]", "x", "[/THINK]", "Yes", "."], 3),
    ],
)
def test_what_remains_of_an_answer_is_its_own_tokens(pieces, cut):
    given = answer(pieces)
    left = without_thinking(given, pieces)

    assert left.token_ids == given.token_ids[cut:]
    assert left.sink == (1, 2, *given.token_ids[:cut])
    assert (left.text, left.lineage) == ("Yes.", "exact")


@pytest.mark.parametrize("pieces", [["Yes", "."], ["<think>", "still"], ["<", "think", ">"]])
def test_what_is_no_thinking_or_has_no_end_stays(pieces):
    assert without_thinking(answer(pieces), pieces) is None


def test_where_no_tokens_can_be_cut_text_remains():
    pieces = ["so", "</think", ">Yes", "."]
    assert without_thinking(answer(pieces), pieces) == "Yes."
    assert without_thinking(answer(["so", "</think>", "\n"]), ["so", "</think>", "\n"]) == ""


# in a chat


@pytest.fixture
def session(model_of):
    """Give a session whose every odd answer thinks: a tokenizer in which some words are marks."""
    names = ["<s>", "</s>", "<unk>", "<think>", "</think>", "#", "$", *(f"w{i}" for i in range(187))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.WhitespaceSplit(), decoders.WordPiece(prefix="~")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = PLAIN
    with nbkv.load(model_of("llama"), tokenizer=tokenizer, strategy="epic(first_k=1)") as made:
        yield made


class Says:
    """Has a model say the given ids, then end."""

    def __init__(self, ids):
        self.ids, self.n = ids, None

    def __call__(self, input_ids, scores):
        self.n = input_ids.shape[1] if self.n is None else self.n
        said = input_ids.shape[1] - self.n
        wanted = self.ids[said] if said < len(self.ids) else 1
        scores[:] = -1e9
        scores[:, wanted] = 0
        return scores


def send(chat, text, said="", **options):
    ids = chat._session.tokenizer(said, add_special_tokens=False)["input_ids"]
    more = {"logits_processor": [Says(ids)], "max_new_tokens": len(ids) + 1} if said else {"max_new_tokens": 2}
    return chat.send(text, **more, **options)


def words_of(n, seed):
    draw = Random(seed)
    return " ".join(f"w{draw.randrange(187)}" for _ in range(n))


def ids(session, text):
    return tuple(session.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_thinking_is_dropped_from_all_answers_so_far_and_what_is_behind_it_moves(session):
    chat = session.chat("w1")
    first = send(chat, words_of(20, 1), f"<think> {words_of(10, 2)} </think> {words_of(24, 3)}")
    send(chat, words_of(20, 4), f"w5 </think> {words_of(24, 5)}")
    assert all(result.lineage == "exact" for result in chat.results)
    whole = send(chat, "w9").prompt_ids
    chat.rewind(3)

    assert chat.drop_thinking() == 14
    assert chat.drop_thinking() == 0
    result = send(chat, "w9")
    marks = ids(session, "<think> </think>")
    assert len(result.prompt_ids) == len(whole) - 14
    assert not set(marks) & set(result.prompt_ids)
    head = len(first.prompt_ids)
    assert result.prompt_ids[head : head + 24] == ids(session, words_of(24, 3))
    assert set(result.provenance[:head].tolist()) == {Provenance.PREFIX}
    assert result.tokens.reused + result.tokens.recomputed >= len(result.prompt_ids) - 8
    assert chat.to_dict()["turns"][0]["answer"]["text"].strip() == words_of(24, 3)


@pytest.mark.parametrize(("turn", "role"), [(0, "user"), (1, "user"), (2, "user"), (1, "assistant"), (2, "assistant")])
def test_an_edit_keeps_later_turns(session, turn, role):
    chat = session.chat(words_of(6, 50))
    for at in (1, 2):
        send(chat, words_of(20, at), words_of(18, 10 + at))
    before = send(chat, "w9").prompt_ids
    chat.rewind(3)
    chat.edit(turn, "w170 w171", role=role)
    result = send(chat, "w9")

    old = {0: words_of(6, 50), 1: words_of(20, 1), 2: words_of(20, 2)}[turn]
    old = words_of(18, 10 + turn) + " </s>" if role == "assistant" else old
    gone = ids(session, old)
    at = next(at for at in range(len(before)) if before[at : at + len(gone)] == gone)
    assert result.prompt_ids == (*before[:at], *ids(session, "w170 w171"), *before[at + len(gone) :])
    behind = result.provenance[at + 2 :]
    assert ((behind == Provenance.CHUNK) | (behind == Provenance.RECOMPUTED)).sum() >= (
        len(behind) - 6 if turn < 2 else 0
    )
    assert len(chat.to_dict()["turns"]) == 3


def test_an_exact_strategy_serves_an_edited_chat_exactly(session):
    chat = session.chat()
    send(chat, words_of(30, 1), strategy="prefix")
    send(chat, words_of(30, 2), strategy="prefix")
    chat.edit(2, words_of(28, 3))
    result = send(chat, "w9", strategy="prefix", fidelity=True)

    assert result.lineage == "exact"
    assert result.tokens.reused >= 32
    assert result.fidelity.kl <= 1e-9


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"turn": 3, "text": "w1"}, "no turn 3"),
        ({"turn": 0, "text": "w1"}, "no turn 0"),
        ({"turn": "1", "text": "w1"}, "no turn '1'"),
        ({"turn": 1, "text": ""}, "the turn is empty"),
        ({"turn": 1, "text": 5}, "the turn is an int"),
        ({"turn": 1, "text": "w1", "role": "tool"}, "role='tool'"),
    ],
    ids=str,
)
def test_an_edit_that_cannot_be_changes_nothing(session, given, says):
    chat = session.chat()
    first = send(chat, "w1")
    send(chat, "w2")
    with pytest.raises((nbkv.BadPrompt, nbkv.BadOption), match=says):
        chat.edit(**given)
    again = session.chat()
    send(again, "w1")
    send(again, "w2")

    assert send(chat, "w3").prompt_ids == send(again, "w3").prompt_ids
    assert first.prompt_ids


def test_an_edited_answer_that_was_cut_goes_on(session):
    chat = session.chat()
    send(chat, "w1")
    chat.edit(1, "w20 w21", role="assistant")
    more = chat.send(continue_final_message=True, max_new_tokens=2)
    after = send(chat, "w3").prompt_ids

    assert more.prompt_ids[-2:] == ids(session, "w20 w21")
    assert after[: len(more.prompt_ids) + 2] == (*more.prompt_ids, *more.token_ids)


def test_a_full_store_gives_up_thinking_first_and_the_system_text_last(session, tmp_path):
    store = f"memory+disk:{tmp_path}"
    with nbkv.load(session.adapter.model, tokenizer=session.tokenizer, strategy="prefix", store=store) as own:
        system, thought = words_of(30, 1), f"<think> {words_of(10, 3)} </think> {words_of(4, 4)}"
        chat = own.chat(system)
        plain = send(chat, words_of(12, 2), words_of(5, 6))
        result = send(chat, words_of(9, 5), thought)
        own.store.flush()
        n, front = len(result.prompt_ids), own.store.front
        runs = front.runs(own._ctx.for_request().space(), (*result.prompt_ids, *result.token_ids), 0)
        head = plain.prompt_ids.index(ids(own, words_of(12, 2))[0])
        assert [priority for _, priority in runs] == [1, 0, -1]
        assert abs(runs[0][0] - head) <= 1, "up to the user's first words"
        assert runs[1][0] == n
        assert sorted({row.priority for row in own.store.below[0].rows()}) == [-1, 0, 1]
        for seed in (7, 8):
            send(own.chat(), words_of(14, seed), words_of(3, seed))
        held = lambda: front.holds(own._ctx.for_request().space(), (*result.prompt_ids, *result.token_ids))  # noqa: E731
        assert held() > n
        front._buffers.fit()
        front.limit = front.nbytes - 1
        send(own.chat(), "w3", keep=False)
        assert held() == n, "the thinking alone has gone, though others are older"
        front.limit = 0
        send(own.chat(), "w4", keep=False)
        assert held() == 0


def test_nothing_has_a_priority_where_nobody_thinks_and_no_system_speaks(session):
    with nbkv.load(session.adapter.model, tokenizer=session.tokenizer, strategy="prefix") as own:
        result = send(own.chat(), words_of(12, 2), words_of(5, 6))
        whole = (*result.prompt_ids, *result.token_ids)
        assert {each for _, each in own.store.runs(own._ctx.for_request().space(), whole, 0)} == {0}
