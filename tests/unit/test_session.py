from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest
import torch

import nbkv
from nbkv.errors import BadOption, BadPrompt, NbkvError, UnknownName
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


@pytest.fixture
def own_session(make_model, tokenizer):
    """A session on a model of its own, which a test may change."""
    with nbkv.load(make_model("llama"), tokenizer=tokenizer) as session:
        yield session


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


def test_bad_input_leaves_the_session_usable(session_of, words, make_model, tokenizer):
    session = session_of()
    with nbkv.load(make_model("llama", seed=9), tokenizer=tokenizer) as other:
        foreign = other.chunk(words(5), name="foreign")
    for wrong, error in (
        (lambda: session.generate(""), BadPrompt),
        (lambda: session.generate([]), BadPrompt),
        (lambda: session.generate([foreign, "w1"]), BadPrompt),
        (lambda: session.generate("w1", strategy="prefxi"), UnknownName),
        (lambda: session.generate("w1", strategy="prefix(size=3)"), BadOption),
        (lambda: session.generate("w1", max_new_tokens=-1), BadOption),
        (lambda: session.generate("w1", colour=1), BadOption),
        (lambda: session.compare("w1", ["full"], repeat=0), BadOption),
        (lambda: session.chunk(""), BadPrompt),
        (lambda: session.chunk("w1", sink="drain"), BadOption),
        (lambda: session.use("nothing"), UnknownName),
        (lambda: session.use_store("cupboard"), BadOption),
    ):
        with pytest.raises(error) as caught:
            wrong()
        assert "\n" not in str(caught.value)
    assert session.generate(words(5), max_new_tokens=2).text


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


def test_an_answer_is_a_chunk_of_the_very_ids(session_of, words):
    session = session_of()
    result = session.generate(words(20), max_new_tokens=6)
    follow = session.generate([words(3), result, words(2)], max_new_tokens=2)

    assert follow.prompt_ids[4:10] == result.token_ids
    assert result.chunk("plan").name == "plan"
    assert result.chunk("plan").token_ids == result.token_ids
    for name in ("", None, 3):
        with pytest.raises(BadOption, match="name of a chunk"):
            result.chunk(name)


def test_compare_leaves_the_store_as_it_was(session_of, words):
    session = session_of()
    session.generate(words(60), max_new_tokens=4)
    before = session.store.tiers["tokens"].sum()
    table = session.compare(words(60) + words(5, seed=3), "full, prefix", repeat=2, max_new_tokens=6)
    frame = table.to_frame().set_index("strategy")

    assert session.store.tiers["tokens"].sum() == before
    assert session.last is table
    assert session.stats.requests == 1
    assert frame.loc["full", "hit_rate"] == 0
    assert frame.loc["prefix", "reused"] == 61
    assert frame.loc["prefix", "kl"] < 1e-9
    assert frame.loc["prefix", "top1"] == 1.0
    assert frame["same_text"].all()
    assert "strategy" in table.to_csv()
    assert "prefix" in repr(table)


def test_store_can_be_replaced_cleared_and_shared(session_of, words):
    session = session_of()
    session.generate(words(30), max_new_tokens=3)
    session.store.clear()
    assert session.generate(words(30), max_new_tokens=3).tokens.reused == 0
    session.use_store("memory?device=1MiB")
    assert session.store.limit == 2**20
    assert session.generate(words(30), max_new_tokens=3).tokens.reused == 0
    other = session_of(store=session.store)
    assert other.generate(words(30), max_new_tokens=3).tokens.reused == 30


def test_tenants_do_not_share(session_of, words):
    first = session_of(tenant="a")
    first.generate(words(30), max_new_tokens=3)

    assert session_of(tenant="b", store=first.store).generate(words(30), max_new_tokens=3).tokens.reused == 0


def test_closing(session_of, words):
    session = session_of()
    store = session.store
    result = session.generate(words(10), max_new_tokens=2)
    session.close()
    session.close()

    assert store.nbytes == 0
    assert result.text
    assert session.stats.requests == 1
    with pytest.raises(NbkvError, match="closed"):
        session.generate("w1")


@pytest.mark.parametrize("leave", ["close", "with", "replace", "replace by itself"])
def test_a_store_that_was_lent_stays_as_it_is(session_of, words, leave):
    owner, prompt = session_of(), words(30)
    owner.generate(prompt, max_new_tokens=3)
    borrower, held = session_of(store=owner.store), owner.store.nbytes
    if leave == "close":
        borrower.close()
    elif leave == "with":
        with borrower:
            assert borrower.generate(prompt, max_new_tokens=3).tokens.reused == 30
    elif leave == "replace":
        borrower.use_store("memory")
    else:
        owner.use_store(owner.store)

    assert owner.store.nbytes == held > 0
    assert owner.generate(prompt, max_new_tokens=3).tokens.reused == 30


def test_a_store_of_its_own_is_freed_where_a_lent_one_takes_its_place(session_of, words):
    owner, other = session_of(), session_of()
    other.generate(words(30), max_new_tokens=3)
    own = other.store
    other.use_store(owner.store)

    assert own.nbytes == 0


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
    (note,) = [note for note in said.notes if note.startswith("not kept")]
    told = [event for event in heard if isinstance(event, NotKept)]

    assert note == f"not kept: needs 131 kB, limit {size(session.store.limit)}"
    assert {(event.why, event.limit) for event in told} == {(note, session.store.limit)}
    assert session.stats.not_kept == {"count": len(told), "last": note}
    assert note in repr(session.stats)
    assert note in session.stats._repr_html_()
    assert session.store.nbytes == 0


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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("strategy", ["prefix", "full", "prophet"])
def test_a_model_that_its_owner_moved_is_noted_as_it_is_now(make_model, tokenizer, words, dtype, strategy):
    model = make_model("llama")
    kind = str(dtype).removeprefix("torch.")
    with nbkv.load(model, tokenizer=tokenizer, strategy=strategy) as session:
        before = session.generate(words(20), max_new_tokens=2)
        model.to(dtype)
        moved = [session.generate(words(20), max_new_tokens=2) for _ in range(2)]
        model.to(torch.float32)
        back = session.generate(words(20), max_new_tokens=2)

    assert before.notes[0] == back.notes[0] == "float32 on cpu"
    assert {result.notes[0] for result in moved} == {
        f"{kind} on cpu, moved by its owner: it was proved as float32 on cpu"
    }
    assert moved[0].tokens.reused == 0
    assert moved[1].tokens.reused == (20 if strategy == "prefix" else 0)


def test_stats_are_sums(session_of, words):
    session = session_of()
    for _ in range(3):
        session.generate(words(30), max_new_tokens=4)
    stats = session.stats

    assert stats.requests == 3
    assert stats.prompt_tokens == 93
    assert stats.hit_rate == pytest.approx(60 / 93)
    assert stats.tiers[0]["hits"] == 2
    assert "prefix" in repr(stats)


def test_events_tell_the_story(session_of, words):
    session, seen = session_of(), []
    session.generate(words(20), max_new_tokens=2)
    session.events.add(seen.append)
    session.generate(words(20), max_new_tokens=3)
    kinds = [type(event).__name__ for event in seen]

    assert kinds[:2] == ["Started", "Reused"]
    assert kinds.count("Token") == 3
    assert kinds[-1] == "Finished"
    assert all(event.request == 2 for event in seen if type(event).__name__ != "Stored")
    assert all(isinstance(event.to_dict()["event"], str) for event in seen)


def test_a_listener_that_raises_is_dropped_once(session_of, words):
    session = session_of()

    def broken(event):
        message = "no"
        raise ValueError(message)

    session.events.add(broken)
    with pytest.warns(UserWarning, match="dropped"):
        session.generate(words(5), max_new_tokens=2)
    session.generate(words(5), max_new_tokens=2)


def test_weights_changed_in_place_are_a_miss(own_session, words):
    import torch

    own_session.generate(words(30), max_new_tokens=3)
    with torch.no_grad():
        own_session.adapter.model.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    result = own_session.generate(words(30), max_new_tokens=3)

    assert result.tokens.reused == 0
    assert result.token_ids == own_session.generate(words(30), max_new_tokens=3, strategy="full").token_ids


def test_verify_passes_and_can_fail(own_session):
    assert own_session.verify().ok
    assert "passed" in own_session.verify()._repr_html_()
    assert own_session.verify("full").ok
    own_session.adapter.walk._own[1].register_forward_hook(lambda module, args, out: out + 0.3 * (out.shape[-2] < 20))
    report = own_session.verify()

    assert not report.ok
    assert "FAILED" in repr(report)


REFUSED = {
    "generate a number": lambda s: s.generate(5),
    "generate a dict": lambda s: s.generate({"role": "user", "content": "w1"}),
    "stream a set": lambda s: s.stream({"w1"}),
    "compare nothing": lambda s: s.compare(None),
    "compare by a number": lambda s: s.compare("w1", 5),
    "compare a number of strategies": lambda s: s.compare("w1", [5]),
    "repeat": lambda s: s.compare("w1", repeat=np.float64(2)),
    "chunk of bytes": lambda s: s.chunk(b"w1"),
    "chunk of parts": lambda s: s.chunk(["w1"]),
    "name of a chunk": lambda s: s.chunk("w1", name=5),
    "sink": lambda s: s.chunk("w1", sink=5),
    "verify a number": lambda s: s.verify(5),
    "certify a text": lambda s: s.certify("w1", max_kl=1),
    "certify a dict": lambda s: s.certify({"w1": "w2"}, max_kl=1),
    "certify nothing": lambda s: s.certify(None, max_kl=1),
    "match": lambda s: s.generate("w1", match=["auto"]),
    "force": lambda s: s.generate("w1", force="yes"),
    "fidelity": lambda s: s.generate("w1", fidelity=1),
    "strategy": lambda s: s.generate("w1", strategy=5),
    "use": lambda s: s.use(None),
    "use_store": lambda s: s.use_store(5),
    "stop": lambda s: s.generate("w1", stop={"w1"}),
    "template_kwargs": lambda s: s.generate([{"role": "user", "content": "w1"}], template_kwargs=[1]),
    "template_kwargs of a text": lambda s: s.generate("w1", template_kwargs={"deep": 1}),
    "continue_final_message": lambda s: s.stream(["w1"], continue_final_message=True),
    "system": lambda s: s.chat(5).send("w1"),
    "load a number": lambda s: nbkv.load(5),
    "load with a store": lambda s: nbkv.load(s.adapter.model, tokenizer=s.tokenizer, store=5),
    "load with a tokenizer": lambda s: nbkv.load(s.adapter.model, tokenizer="tiny"),
    "load with kwargs": lambda s: nbkv.load("tiny", model_kwargs=[1]),
    "load with a dtype": lambda s: nbkv.load("tiny", dtype=["float32"]),
    "load with a device": lambda s: nbkv.load("tiny", device=["cpu"]),
    "fidelity_every": lambda s: nbkv.load(s.adapter.model, tokenizer=s.tokenizer, fidelity_every=1.0),
}


@pytest.mark.parametrize("asked", REFUSED)
def test_what_cannot_be_is_one_line_that_names_it(session_of, asked):
    session = session_of()
    with pytest.raises((nbkv.BadPrompt, nbkv.BadOption, nbkv.UnsupportedModel)) as caught:
        REFUSED[asked](session)

    assert "\n" not in str(caught.value)
    assert session.generate("w1", max_new_tokens=np.int64(1), temperature=np.float32(0)).finish_reason == "length"


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
