"""Many prompts as one plan: the answers each has alone, the shared prefix held once, and whatever happens, the rest."""

from __future__ import annotations

import signal

import pandas as pd
import pytest

import nbkv
from nbkv.errors import BadOption, BadPrompt, NbkvError
from nbkv.events import BatchProgress, Finished, Started, Token
from nbkv.inference.by_batch import BatchFigures

NEW = 7
KNOWN = {}  # what full answers, asked once


def prompts_of(words):
    """Ragged, with two shared prefixes, unshared ones, a duplicate, and one that begins another."""
    one, two = words(40, seed=1), words(70, seed=2)
    ends = [words(n, seed=30 + n) for n in (1, 9, 4, 20)]
    return [
        *(one + end for end in ends),
        words(3, seed=5),
        *(two + end for end in ends[:2]),
        one + ends[0],
        one,
        words(50, seed=6),
    ]


def full(session, prompts, **options):
    model, found = session.adapter.fingerprint, []
    for prompt in prompts:
        about = (model, prompt, repr(options))
        if about not in KNOWN:
            KNOWN[about] = session.generate(prompt, strategy="full", max_new_tokens=NEW, **options)
        found.append(KNOWN[about])
    return found


def same(results, expected):
    return [got.token_ids for got in results] == [want.token_ids for want in expected]


@pytest.mark.parametrize(
    "strategy",
    [
        "batch(shared=8)",
        "batch(shared=8, width=1)",
        "batch(shared=8, width=3, tokens=11)",
        "batch(shared=8, memory='40KiB')",
        "batch(shared=1)",
        "batch(shared=500)",
    ],
)
def test_answers_are_those_of_full_one_by_one(session_of, words, strategy):
    session, prompts = session_of(), prompts_of(words)
    results = session.generate_batch(prompts, strategy=strategy, max_new_tokens=NEW, progress=False)
    assert same(results, full(session, prompts))
    assert [each.finish_reason for each in results] == [each.finish_reason for each in full(session, prompts)]
    for result in results:
        assert result.tokens.reused + result.tokens.recomputed + result.tokens.fresh == len(result.prompt_ids)


@pytest.mark.parametrize("family", ["mistral", "gemma3", "mixtral", "qwen2_vl", "gpt2", "deepseek_v3"])
def test_on_other_models_too(session_of, words, family):
    session, prompts = session_of(family), prompts_of(words)[:7]
    results = session.generate_batch(prompts, strategy="batch(shared=8)", max_new_tokens=NEW, progress=False)
    assert same(results, full(session, prompts))
    assert bool(results.notes) == (family in {"gpt2", "deepseek_v3"}), results.notes


@pytest.mark.parametrize("count", [1, 2, 5])
def test_one_prompt_and_duplicates(session_of, words, count):
    session = session_of()
    prompts = [words(30)] * count
    results = session.generate_batch(prompts, strategy="batch(shared=8)", max_new_tokens=NEW, progress=False)
    assert same(results, full(session, prompts))
    assert sum(result.tokens.fresh for result in results) == (31 if count == 1 else 30 + count)


def test_sampling_draws_row_i_with_the_seed_plus_i(session_of, words):
    session, prompts = session_of(), [words(30)] * 3
    asked = {"max_new_tokens": NEW, "temperature": 1.0, "top_p": 0.9}
    results = session.generate_batch(prompts, seed=5, strategy="batch(shared=8)", progress=False, **asked)
    expected = [session.generate(prompts[0], strategy="full", seed=5 + row, **asked) for row in range(3)]
    assert same(results, expected)
    assert len({result.token_ids for result in results}) == 3


@pytest.mark.parametrize("options", [{"stop": "w7"}, {"repetition_penalty": 1.7}, {"stop": [" w1", "w9"]}])
def test_options_are_those_of_generate(session_of, words, options):
    session, prompts = session_of(), prompts_of(words)
    results = session.generate_batch(prompts, max_new_tokens=NEW, progress=False, **options)
    expected = full(session, prompts, **options)
    assert same(results, expected)
    assert results.texts == [result.text for result in expected]


def test_the_shared_prefix_is_computed_once_and_held_once(session_of, words):
    session, shared = session_of(), words(200)
    prompts = [shared + words(4, seed=seed) for seed in range(16)]
    results = session.generate_batch(prompts, max_new_tokens=NEW, progress=False)
    token = session.adapter.token_bytes
    figures = results.figures
    assert figures.groups == [16]
    assert figures.prefix_rows == 201
    assert figures.rows == 201 + 16 * (4 + NEW - 1)
    assert figures.shared_bytes == 201 * token
    assert figures.peak_bytes <= (201 + 16 * 32) * token < 16 * 201 * token / 4
    assert sum(result.tokens.reused for result in results) == 15 * 201
    assert sum(result.compute.rows * len(result.prompt_ids) for result in results) == pytest.approx(201 + 16 * 4)


def test_what_was_shared_stays_for_later_and_what_was_stored_is_not_computed(session_of, words):
    session, shared = session_of(strategy="prefix"), words(60)
    prompts = [shared + words(4, seed=seed) for seed in range(3)]
    session.generate_batch(prompts, max_new_tokens=2, progress=False)
    assert session.generate(shared + words(9, seed=9), max_new_tokens=2).tokens.reused == 61
    again = session.generate_batch(prompts, max_new_tokens=2, progress=False)
    assert again.figures.prefix_rows == 0
    assert [result.tokens.reused for result in again] == [61] * 3


def test_groups_that_begin_alike_share_through_the_store(session_of, words):
    session, shelf = session_of(), words(90)
    books = [shelf + words(40, seed=seed) for seed in (1, 2)]
    prompts = [book + words(3, seed=at) for at in range(3) for book in books]
    results = session.generate_batch(prompts, max_new_tokens=NEW, progress=False)
    assert results.figures.groups == [3, 3]
    assert results.figures.prefix_rows == 91 + 2 * 40
    # what is short is copied: a part of attention would cost more
    assert results.figures.shared_bytes <= 2 * (91 + 40) * session.adapter.token_bytes
    assert same(results, full(session, prompts))


def test_a_store_with_no_room_for_the_prefix_is_no_error(session_of, words):
    session = session_of(store="memory?device=4KiB")
    prompts = prompts_of(words)
    results = session.generate_batch(prompts, strategy="batch(shared=8)", max_new_tokens=NEW, progress=False)
    assert same(results, full(session, prompts))
    assert session.store.nbytes <= 4096


# what fails, and what is kept


@pytest.mark.parametrize(
    ("bad", "said"),
    [("", "empty"), (3.5, "float"), (["w1", ""], "empty text"), (float("nan"), "float"), ("long", "too many")],
)
@pytest.mark.parametrize("strategy", ["batch", "prefix"])
def test_a_prompt_that_cannot_run_keeps_no_other_from_its_answer(session_of, words, bad, said, strategy):
    session, good = session_of(), [words(9), words(5, seed=1)]
    bad = words(600) if bad == "long" else bad
    results = session.generate_batch([good[0], bad, good[1]], strategy=strategy, max_new_tokens=NEW, progress=False)
    assert [*results.errors] == [1]
    with pytest.raises(BadPrompt, match=rf"prompt 1: .*{said}"):
        results[1]
    assert results[0].token_ids == full(session, good)[0].token_ids
    assert results[-1].token_ids == full(session, good)[1].token_ids
    assert results.texts[1] is None
    assert results.to_frame()["error"].notna().tolist() == [False, True, False]
    assert "failed: prompt 1" in repr(results)


@pytest.mark.parametrize("strategy", ["batch(shared=8)", "prefix", "full"])
@pytest.mark.parametrize("option", ["logits_processor", "stopping_criteria"])
def test_what_raises_at_one_prompt_leaves_the_others(session_of, words, strategy, option):
    session, prompts = session_of(), [words(20) + words(3, seed=seed) for seed in range(4)]
    third = session._prompt(prompts[2]).ids

    def boom(ids, scores, **_):
        if tuple(ids[0, : len(third)].tolist()) == third and ids.shape[1] > len(third):
            message = "no such reward"
            raise ZeroDivisionError(message)
        return scores if option == "logits_processor" else scores.new_zeros(1, dtype=bool)

    asked = {"strategy": strategy, "max_new_tokens": NEW, option: [boom]}
    results = session.generate_batch(prompts, progress=False, **asked)
    with pytest.raises(NbkvError, match="prompt 2: ZeroDivisionError: no such reward"):
        results[2]
    others = [0, 1, 3]
    assert [results[at].token_ids for at in others] == [full(session, prompts)[at].token_ids for at in others]


def interrupting(session, after, how):
    """Have ``how`` happen when ``after`` tokens were decoded."""
    seen = []

    def listen(event):
        seen.append(event)
        if sum(isinstance(each, Token) for each in seen) == after and isinstance(event, Token):
            how()

    session.events.add(listen)
    return listen


@pytest.mark.parametrize("strategy", ["batch(shared=8, width=4)", "prefix"])
@pytest.mark.parametrize("after", [1, 17, 30])
def test_stop_keeps_what_there_is(session_of, words, strategy, after):
    session, prompts = session_of(), prompts_of(words)
    expected = full(session, prompts)
    interrupting(session, after, session.stop)
    results = session.generate_batch(prompts, strategy=strategy, max_new_tokens=NEW, progress=False)
    assert 0 < results.interrupted < len(prompts) + 1
    assert results.generated >= after
    for got, want in zip(results, expected, strict=True):
        assert got.token_ids == want.token_ids[: len(got.token_ids)]
        assert got.finish_reason in {want.finish_reason, "interrupted"}
    assert session.last.texts == results.texts
    later = session.generate_batch(prompts, strategy=strategy, max_new_tokens=NEW, progress=False)
    assert same(later, expected)


@pytest.mark.parametrize("after", [1, 12, 25])
def test_ctrl_c_raises_with_what_there_is(session_of, words, after):
    session, prompts = session_of(), prompts_of(words)
    listener = interrupting(session, after, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt) as caught:
        session.generate_batch(prompts, max_new_tokens=NEW, progress=False)
    session.events.drop(listener)
    partial = caught.value.result
    assert partial.interrupted
    assert partial.generated >= after
    assert session.last.generated == partial.generated
    assert same(session.generate_batch(prompts, max_new_tokens=NEW, progress=False), full(session, prompts))


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ("one prompt", "prompts is a str"),
        ([{"role": "user", "content": "hi"}], "messages of one prompt"),
        (pd.DataFrame({"question": ["w1"]}), "name a column of it, such as table\\['question'\\]"),
        (7, "prompts is a int"),
    ],
)
def test_what_is_not_many_prompts_is_refused(session_of, prompts, said):
    with pytest.raises(BadPrompt, match=said):
        session_of().generate_batch(prompts)


@pytest.mark.parametrize(
    "options",
    [
        {"order": "best"},
        {"schedule": "fast"},
        {"strategy": "batch(width=0)"},
        {"strategy": "batch(memory=3)"},
        {"strategy": "batch(memory='much')"},
        {"temprature": 1},
    ],
)
def test_options_are_refused_before_anything_runs(session_of, options):
    session = session_of()
    with pytest.raises(BadOption):
        session.generate_batch(["w1"], **options)
    assert session.generate("w1", max_new_tokens=1).text


# tables, streams, events


def test_a_column_gives_its_labels_back(session_of, words):
    session = session_of()
    table = pd.DataFrame({"prompt": [words(20) + words(2, seed=at) for at in range(3)]}, index=["x", "y", "z"])
    results = session.generate_batch(table.prompt, max_new_tokens=3, progress=False)
    joined = table.join(results.to_frame())
    assert joined["text"].tolist() == results.texts
    assert joined["reused"].tolist() == [result.tokens.reused for result in results]
    failing = session.generate_batch(pd.Series(["w1", None], index=["a", "b"]), max_new_tokens=1, progress=False)
    assert "prompt 1 ('b'): it is a" in str(failing.errors[1])


def test_nothing_is_a_batch_too(session_of):
    results = session_of().generate_batch([], progress=False)
    assert len(results) == 0
    assert results.to_frame().empty
    assert results.figures == BatchFigures()


@pytest.mark.parametrize("schedule", [None, "hits(window=4, wave=2, patience=1)"])
@pytest.mark.parametrize("strategy", ["batch(shared=8)", "prefix", "full"])
def test_a_stream_comes_back_in_its_own_order(session_of, words, schedule, strategy):
    session, prompts = session_of(), prompts_of(words)
    given = {"strategy": strategy, "schedule": schedule, "max_new_tokens": NEW}
    results = session.generate_batch((prompt for prompt in prompts), progress=False, **given)
    assert same(results, full(session, prompts))


def test_by_hit_rate_prompts_that_are_stored_go_first(session_of, words):
    session, known = session_of(), words(30)
    session.generate(known, strategy="prefix", max_new_tokens=1)
    order = []
    session.events.add(lambda event: order.append(event.request) if isinstance(event, Started) else None)
    prompts = [words(20, seed=1), known + words(2, seed=2), words(20, seed=3), known + words(2, seed=4)]
    session.generate_batch(prompts, strategy="prefix", schedule="hits(wave=2)", max_new_tokens=1, progress=False)
    assert order == [3, 5, 2, 4]


def test_listeners_hear_each_request_and_how_far_the_batch_is(session_of, words):
    session, heard = session_of(), []
    session.events.add(heard.append)
    results = session.generate_batch(prompts_of(words), max_new_tokens=3, progress=False)
    for number, result in enumerate(results, start=1):
        mine = [event for event in heard if event.request == number and isinstance(event, (Started, Token, Finished))]
        assert [type(event) for event in mine] == [Started, *[Token] * len(result.token_ids), Finished]
        assert [event.token_id for event in mine[1:-1]] == [*result.token_ids]
    progress = [event for event in heard if isinstance(event, BatchProgress)]
    assert [event.done for event in progress] == [*range(1, 11)]
    assert {event.total for event in progress} == {10}
    assert session.stats.requests == 10
    assert session.generate("w1", max_new_tokens=1)
    assert session.history()["request"].max() == 11


def test_a_bar_shows_how_far_it_is(session_of, capsys):
    session_of().generate_batch(["w1", "w2"], max_new_tokens=1)
    assert "2/2" in capsys.readouterr().err


def test_results_are_shown_and_are_plain_data(session_of, words):
    import json

    results = session_of().generate_batch(prompts_of(words) * 2, max_new_tokens=3, progress=False)
    told = json.loads(json.dumps(results.to_dict()))
    assert told["figures"]["groups"]
    assert len(told["rows"]) == 20
    text, page = repr(results), results._repr_html_()
    for shown in ("20 of 20 prompts answered", "reused", "8 more prompts"):
        assert shown in text
        assert shown in page
    assert "<script" not in page
    assert results[:2][1].token_ids == results[1].token_ids


def test_a_prompt_alone_is_continued_like_prefix(session_of, words):
    session = session_of(strategy="batch")
    session.generate(words(30), max_new_tokens=4)
    again = session.generate(words(30) + words(5, seed=1), max_new_tokens=4)
    assert again.tokens.reused == 31


def test_on_the_bundled_reader():
    items = nbkv.tasks.ledger(seed=0, n=6, chunks=3)
    notes = "".join(items[0].chunks)
    with nbkv.load("tiny") as session:
        prompts = [notes + item.question for item in items] + [items[0].question]
        results = session.generate_batch(prompts, max_new_tokens=NEW, progress=False)
        assert same(results, full(session, prompts))
        assert results.hit_rate > 0.6
