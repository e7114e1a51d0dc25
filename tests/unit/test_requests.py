"""Requests to a session: what they count, how they end, who waits for whom."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from nbkv.errors import BadPrompt, NbkvError
from nbkv.events import NotKept
from nbkv.result import Provenance
from nbkv.show.units import size


def within(session, number, act, layer=2):
    """Have ``act`` called where ``layer`` is about to run for the ``number``-th time from now; return the hook."""
    calls = count(1)

    def called(*_):
        if next(calls) == number:
            act()

    return session.adapter.walk._own[layer].register_forward_pre_hook(called)


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def test_counts_add_up_and_say_where_kv_came_from(session_of, words):
    session, prompt = session_of(), words(30)
    for asked in (prompt, prompt, prompt + words(5, seed=1)):
        result = session.generate(asked, max_new_tokens=4)
        tokens = result.tokens

        assert tokens.reused + tokens.recomputed + tokens.fresh == tokens.prompt == len(result.prompt_ids)
        assert result.compute.share == pytest.approx((tokens.fresh + tokens.recomputed) / tokens.prompt)
    assert session.history()["reused"].tolist() == [0, 30, 31]
    assert session.history()["recomputed"].tolist() == [0, 1, 0]


def test_full_is_all_fresh_and_leaves_no_trace(session_of, words):
    session = session_of()
    for _ in range(2):
        result = session.generate(words(30), strategy="full", max_new_tokens=4)

        assert set(result.provenance) == {Provenance.FRESH}
        assert result.compute.share == 1.0
    assert session.store.tiers["tokens"].sum() == 0


def test_result_is_data(session_of, words):
    import json
    import pickle

    result = session_of().generate(words(20), max_new_tokens=4)
    data = json.loads(json.dumps(result.to_dict()))

    assert data["text"] == result.text
    assert data["provenance"][-1]["stop"] == 21
    assert pickle.loads(pickle.dumps(result)).token_ids == result.token_ids
    assert result.text in repr(result)
    assert "<script" not in result._repr_html_()
    assert result.timing.ttft_s <= result.timing.total_s
    assert result.kv_bytes["memory"] > 0


def test_stream_gives_the_same_and_frees_the_session(session_of, words):
    session = session_of()
    whole = session.generate(words(20), max_new_tokens=12)
    stream = session.stream(words(20), max_new_tokens=12)

    assert "".join(stream) == whole.text == stream.result.text
    assert session.last is stream.result


def test_an_abandoned_stream_keeps_what_it_made(session_of, words):
    session = session_of()
    stream = session.stream(words(20), max_new_tokens=12)
    next(stream)
    with pytest.raises(NbkvError, match="busy"):
        session.generate(words(3))
    stream.close()

    assert stream.result.finish_reason == "interrupted"
    assert session.generate(words(20), max_new_tokens=2).tokens.reused == 20


def test_a_call_from_a_callback_is_refused_in_one_line(session_of, words):
    session = session_of()

    def criterion(ids, scores, **_):
        session.generate(words(3))

    with pytest.raises(NbkvError, match="busy"):
        session.generate(words(10), max_new_tokens=3, stopping_criteria=[criterion])
    assert session.generate(words(10), max_new_tokens=3).text


def test_requests_of_two_threads_wait_for_each_other(session_of, words):
    session, found = session_of(), []
    expected = session.generate(words(25), max_new_tokens=10, strategy="full").token_ids
    threads = [
        threading.Thread(target=lambda: found.append(session.generate(words(25), max_new_tokens=10).token_ids))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert found == [expected] * 4


@pytest.mark.parametrize(
    ("passes", "quick_s", "kept", "reused"),
    [(1, 0, 0, 0), (8, 0, 7, 40), (8, float("inf"), 8, 40)],
    ids=["prefill", "slow step", "quick step"],  # a quick one ends before the flag is read
)
def test_ctrl_c_keeps_the_partial_result_and_an_exact_cache(
    own_session, words, monkeypatch, passes, quick_s, kept, reused
):
    monkeypatch.setattr("nbkv.inference.by_token._QUICK_S", quick_s)
    session, prompt = own_session, words(40)
    expected = session.generate(prompt, strategy="full", max_new_tokens=20)
    before = signal.getsignal(signal.SIGINT)
    hook = within(session, passes, ctrl_c)
    with pytest.raises(KeyboardInterrupt) as stopped:
        session.generate(prompt, max_new_tokens=20)
    hook.remove()
    partial = stopped.value.result

    assert signal.getsignal(signal.SIGINT) is before
    assert partial.finish_reason == "interrupted"
    assert partial is session.last
    assert partial.token_ids == expected.token_ids[:kept]
    again = session.generate(prompt, max_new_tokens=20)
    assert again.token_ids == expected.token_ids
    assert again.tokens.reused == reused


def test_stop_from_another_thread_returns_the_result(own_session, words):
    def from_another_thread():
        thread = threading.Thread(target=own_session.stop)
        thread.start()
        thread.join()

    hook = within(own_session, 5, from_another_thread)
    result = own_session.generate(words(20), max_new_tokens=400)
    hook.remove()

    assert result.finish_reason == "interrupted"
    assert len(result.token_ids) in {4, 5}  # the fifth is there where its step is too quick to be broken off
    assert own_session.generate(words(20), max_new_tokens=2).finish_reason == "length"


def test_two_ctrl_c_raise_at_once_and_the_next_request_is_exact(own_session, words):
    session, prompt = own_session, words(40)
    expected = session.generate(prompt, strategy="full", max_new_tokens=8).token_ids
    session.generate(prompt, max_new_tokens=8)
    reached = []

    def twice():
        ctrl_c()
        reached.append("the layer goes on after the first")
        ctrl_c()
        reached.append("the layer goes on after the second")

    hook = within(session, 1, twice)
    with pytest.raises(KeyboardInterrupt):
        session.generate(prompt + words(3, seed=4), max_new_tokens=8)
    hook.remove()

    assert reached == ["the layer goes on after the first"]
    assert session.generate(prompt, max_new_tokens=8).token_ids == expected


def test_context_is_kept(session_of, words):
    session = session_of()
    with pytest.raises(BadPrompt, match="context is 512"):
        session.generate(words(600))
    result = session.generate(words(505), max_new_tokens=50)

    assert len(result.token_ids) == 512 - 506
    assert result.finish_reason == "length"
    assert any("limited to 6 tokens" in note for note in result.notes)


def test_chunks_are_encoded_once_and_reused_as_first_part(session_of, words):
    session = session_of()
    first = session.chunk(words(30), name="notes")
    again = session.chunk(words(30), name="notes")
    replaced = session.chunk(words(20, seed=2), name="notes")

    assert again is first
    assert replaced is not first
    assert "replaces" in replaced.notes[0]
    assert session.chunks["notes"] is replaced
    result = session.generate([first, words(4, seed=5)], max_new_tokens=3)
    assert result.tokens.reused == 31
    assert result.chunks == (("notes", 1, 31),)
    assert session.generate([words(4, seed=5), first], max_new_tokens=3).tokens.reused == 1


@pytest.mark.parametrize("asked", ["a request", "a chunk", "a chunk that is missed"])
@pytest.mark.parametrize("limit", ["1kB", "20kB", "100kB"])
def test_what_does_not_fit_is_said_with_what_it_needs(session_of, words, asked, limit):
    session, heard = session_of(store=f"memory?device={limit}"), []
    session.events.add(heard.append)
    chunk = session.chunk(words(90), name="a")
    if asked == "a request":
        said = session.generate(words(90), max_new_tokens=3)
    elif asked == "a chunk":
        said = chunk
        assert "not kept" in repr(chunk)
        assert "not kept" in chunk._repr_html_()
    else:
        said = session.generate([words(2), chunk, words(2)], strategy="prophet", max_new_tokens=3)
    missed = asked == "a chunk that is missed"
    head = 3 * session.adapter.token_bytes if missed else 0  # BOS and two words in front of the chunk
    fits = head <= session.store.limit
    note, *others = [note for note in said.notes if note.startswith("not kept")]
    told = [event for event in heard if isinstance(event, NotKept)]

    assert note == f"not kept: needs 131 kB, limit {size(session.store.limit)}"
    assert others == ([] if fits else [f"not kept: needs {size(head)}, limit {size(session.store.limit)}"])
    assert {(event.why, event.limit) for event in told} == {(why, session.store.limit) for why in (note, *others)}
    assert session.stats.not_kept == {"count": len(told), "last": told[-1].why}
    assert told[-1].why in repr(session.stats)
    assert told[-1].why in session.stats._repr_html_()
    assert session.store.nbytes == (head if fits else 0)


def test_what_only_tiers_can_hold_is_not_kept_in_memory(session_of, words, tmp_path):
    session = session_of(store=["memory?device=20kB", f"disk:{tmp_path}"])
    for _ in range(2):
        result = session.generate(words(90), max_new_tokens=1)
        assert "not kept in memory: needs 131 kB, limit 20.0 kB" in result.notes


@pytest.mark.parametrize("n", [10, 60, 120])
def test_what_fits_is_kept_in_silence(session_of, words, n):
    session = session_of(store="memory?device=132kB")
    for _ in range(2):
        result = session.generate(words(n), max_new_tokens=3)

        assert "not kept" not in f"{result.notes} {session.stats}"
    assert result.tokens.reused == n


def test_a_limit_that_others_use_up_is_said(session_of, words):
    session = session_of(store="memory?device=300kB")
    other = session_of(store=session.store)
    stream = other.stream(words(90, seed=1), max_new_tokens=30)
    next(stream)
    note = session.generate(words(90), max_new_tokens=3).notes[-1]
    stream.close()

    assert note == "not kept: needs 131 kB, limit 300 kB, most of it in use by requests that run"
    assert "not kept" not in str(session.generate(words(90), max_new_tokens=3).notes)


def test_six_threads_ask_one_session(session_of, words):
    """Also under names that are found for chunks, and with numbers of requests that nobody else has."""
    session, alone = session_of(), session_of()
    prompts = [f"w{n} </s> w{n + 1}" for n in range(6)]
    expected = [alone.generate(prompt, max_new_tokens=3).token_ids for prompt in prompts]
    texts = [[prompt] for prompt in prompts]
    split = [alone.generate(prompt, max_new_tokens=3).token_ids for prompt in texts]
    numbers = []
    session.events.add(lambda event: numbers.append(event.request) if type(event).__name__ == "Started" else None)

    def wrong(n):
        session.chunk(words(4, seed=n))
        return sum(
            (session.generate(prompts[n], max_new_tokens=3).token_ids != expected[n])
            + (session.generate(texts[n], max_new_tokens=3).token_ids != split[n])
            for _ in range(5)
        )

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(wrong, range(6))) == 0
    finally:
        sys.setswitchinterval(switch)
    assert sorted(numbers) == list(range(1, 61))
    assert sorted(session.chunks) == [f"chunk{n}" for n in range(1, 7)]
