"""Agents whose prompts name each other's outputs: order, what is handed on, what is kept where one fails."""

from __future__ import annotations

import pytest

import nbkv
from nbkv.session.pipelines.pipeline import Pipeline

CHAIN = {"planner": " w1 {{question}} w2", "solver": " w3 {{planner}} w4", "judge": " w5 {{solver}} w6 {{planner}} w7"}
NEW = {"max_new_tokens": 5}


@pytest.fixture
def session(session_of):
    return session_of()


def failing_at(words_of, at):
    """Return a processor that raises in the ``at``-th prompt it sees, and a list of how many tokens it saw."""
    seen = []

    def process(ids, scores):
        seen.append(ids.shape[-1])
        if len(seen) == at:
            raise ZeroDivisionError(words_of)
        return scores

    return process


def test_an_output_stands_in_later_prompts_as_its_very_tokens(session, words):
    done = Pipeline(session, CHAIN, **NEW).run(question=words(6))
    planner, solver, judge = (done[name] for name in CHAIN)

    assert list(done) == list(CHAIN)
    assert done.text == judge.text
    for result, source in ((solver, planner), (judge, planner), (judge, solver)):
        (span,) = [(start, stop) for name, start, stop in result.chunks if done[name] is source]
        ids = source.token_ids
        ends = session.end_tokens
        assert result.prompt_ids[slice(*span)] == (ids[:-1] if ids[-1] in ends else ids)


def test_answers_equal_those_of_prompts_written_by_hand(session, words):
    done = Pipeline(session, CHAIN, **NEW).run(question=words(6))
    first = session.generate(f" w1 {words(6)} w2", **NEW)
    chunk = done["solver"].chunk("solver")

    assert done["planner"].token_ids == first.token_ids
    assert done["solver"].prompt_ids[-1] == session.generate([" w3 ", chunk, " w4"], **NEW).prompt_ids[-1]


def test_the_token_that_ended_an_output_is_not_handed_on(session, words, monkeypatch):
    done = Pipeline(session, CHAIN, **NEW).run(question=words(6))
    last = done["planner"].token_ids[-1]
    monkeypatch.setattr(type(session), "end_tokens", frozenset({last}))
    again = Pipeline(session, CHAIN, **NEW).run(question=words(6))

    assert {edge.tokens for edge in again.edges if edge.source == "planner"} == {4}
    assert {edge.tokens for edge in done.edges if edge.source == "planner"} == {5}


def test_a_stop_string_is_not_handed_on(session, words):
    whole = Pipeline(session, CHAIN, **NEW).run(question=words(6))
    ids = whole["planner"].token_ids
    last = max(at for at, token in enumerate(ids) if token not in ids[:at])
    done = Pipeline(session, CHAIN, stop=session.tokenizer.decode([ids[last]]), **NEW).run(question=words(6))
    (edge,) = [edge for edge in done.edges if (edge.source, edge.agent) == ("planner", "solver")]

    assert done["planner"].finish_reason == "stop"
    assert edge.tokens == len(done["planner"].token_ids) - 1 == last > 0


def test_reuse_is_told_by_edge(session, words):
    chunk = session.chunk(words(30, seed=3), name="facts")
    prompts = {"reader": " w1 {{facts}} w2", "writer": " w3 {{facts}} w4 {{reader}} w5"}
    done = Pipeline(session, prompts, strategy="full", **NEW).run(facts=chunk)
    told = done.to_frame()

    assert [(edge.source, edge.agent) for edge in done.edges] == [
        ("facts", "reader"),
        ("facts", "writer"),
        ("reader", "writer"),
    ]
    assert list(told["tokens"]) == [30, 30, 5]
    assert (told["reused"] == 0).all()
    assert list(told["ttft_s"]) == [done["reader"].timing.ttft_s, *[done["writer"].timing.ttft_s] * 2]
    assert list(done.agents_frame()["agent"]) == ["reader", "writer"]


def test_agents_run_behind_those_they_name(session):
    prompts = {"last": " w1 {{left}} {{right}}", "left": " w2 {{first}}", "right": " w3 {{first}}", "first": " w4"}
    assert Pipeline(session, prompts).order == ["first", "left", "right", "last"]


@pytest.mark.parametrize(
    ("prompts", "circle"),
    [
        ({"a": " w1 {{b}}", "b": " w2 {{a}}"}, "a -> b -> a|b -> a -> b"),
        ({"a": " w1 {{a}}"}, "a -> a"),
        ({"a": " w1 {{c}}", "b": " w2 {{a}}", "c": " w3 {{b}}", "d": " w4 {{c}}"}, "->"),
    ],
)
def test_agents_that_wait_for_each_other_are_refused(session, prompts, circle):
    with pytest.raises(nbkv.BadOption, match=f"wait for each other: .*({circle}).*rounds="):
        Pipeline(session, prompts)


def test_rounds_hand_on_the_newest_output_and_nothing_before_there_is_one(session):
    pipeline = Pipeline(session, {"pro": " w1 {{con}} w2", "con": " w3 {{pro}} w4"}, rounds=2, **NEW)
    done = pipeline.run()
    one, two, three, four = (run.result for run in done.runs)

    assert [(run.name, run.round) for run in done.runs] == [("pro", 1), ("con", 1), ("pro", 2), ("con", 2)]
    assert one.chunks == ()
    assert three.prompt_ids[slice(*three.chunks[0][1:])] == two.token_ids
    assert four.prompt_ids[slice(*four.chunks[0][1:])] == three.token_ids
    assert done["pro"] is three


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ({}, "question.*planner.*neither an agent nor given"),
        ({"question": " w1", "qestion": " w2"}, "unknown input 'qestion'.*question"),
        ({"question": object()}, "question.*accepted"),
        ({"question": {" w1": 2}}, "question.*accepted"),
    ],
)
def test_inputs_that_prompts_do_not_name_are_refused(session, inputs, match):
    with pytest.raises(nbkv.BadPrompt, match=match):
        Pipeline(session, CHAIN).run(**inputs)
    assert session.last is None


@pytest.mark.parametrize(
    "prompts",
    [{}, {"two words": " w1"}, {"a": ""}, {"a": 3}, {"a": [3]}, {"a": [{"role": "user"}]}, {3: " w1"}, " w1"],
)
def test_what_is_no_pipeline_is_refused(session, prompts):
    with pytest.raises(nbkv.BadOption):
        Pipeline(session, prompts)


@pytest.mark.parametrize("rounds", [0, -1, True, "two", 1.5])
def test_rounds_are_a_number(session, rounds):
    with pytest.raises(nbkv.BadOption, match="rounds="):
        Pipeline(session, CHAIN, rounds=rounds)


def test_what_is_wrong_for_all_agents_is_said_at_once(session):
    with pytest.raises(nbkv.BadOption, match="max_new_tokns"):
        Pipeline(session, CHAIN, max_new_tokns=3).run(question=" w1")
    with pytest.raises(nbkv.UnknownName, match="prefx"):
        Pipeline(session, CHAIN, strategy="prefx")


def test_messages_are_prompts_too(make_model, make_tokenizer, words):
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    prompts = {
        "a": [{"role": "system", "content": " w1"}, {"role": "user", "content": " w2 {{facts}}"}],
        "b": [{"role": "user", "content": " w3 {{a}} w4"}],
    }
    with nbkv.load(make_model("llama"), tokenizer=make_tokenizer(template=template)) as session:
        done = Pipeline(session, prompts, **NEW).run(facts=words(4))
        assert [name for name, *_ in done["b"].chunks] == ["a"]


@pytest.mark.parametrize("at", [1, 6, 11])
def test_a_failing_agent_keeps_the_others(session, at):
    prompts = {"one": " w1", "two": " w2", "three": " w3", "needs_two": " w4 {{two}}", "further": " w5 {{needs_two}}"}
    done = Pipeline(session, prompts, logits_processor=[failing_at("boom", at)], **NEW).run()
    name = list(prompts)[(at - 1) // 5]

    assert name in done.errors
    assert f"agent {name!r}: ZeroDivisionError: boom" in str(done.errors[name])
    assert {*done} | {*done.errors} == {*prompts}
    assert ("needs_two" in done.errors) == (name == "two")
    assert ("further" in done.errors) == (name == "two")
    with pytest.raises(nbkv.NbkvError, match=f"agent {name!r}"):
        _ = done[name]
    assert f"agent {name!r}" in repr(done)
    assert "failed" in done._repr_html_()


def test_a_prompt_that_is_too_long_fails_by_name(session, words):
    done = Pipeline(session, {"short": " w1", "long": " w2 {{text}}"}, **NEW).run(text=words(600))

    assert [*done] == ["short"]
    assert isinstance(done.errors["long"], nbkv.BadPrompt)
    assert "agent 'long': " in str(done.errors["long"])


@pytest.mark.parametrize("at", [1, 7, 12])
def test_ctrl_c_keeps_what_there_was(session, at):
    seen = []

    def process(ids, scores):
        seen.append(ids)
        if len(seen) == at:
            session._stopper.by_signal = True
            session._stopper.stop()
        return scores

    with pytest.raises(KeyboardInterrupt, match="stopped at agent") as caught:
        Pipeline(session, CHAIN, logits_processor=[process], **NEW).run(question=" w9")
    kept = caught.value.result

    assert [*kept] == list(CHAIN)[: (at - 1) // 5 + 1]
    assert kept.runs[-1].result.finish_reason == "interrupted"
    assert f"{(at - 1) // 5} of 3 agents had answered" in kept.stopped


def test_stop_returns_what_there_was(session):
    def process(_ids, scores):
        session.stop()
        return scores

    done = Pipeline(session, CHAIN, logits_processor=[process], **NEW).run(question=" w9")

    assert [run.name for run in done.runs] == ["planner"]
    assert "stopped at agent 'planner'" in repr(done)
    with pytest.raises(nbkv.UnknownName, match="has not run"):
        _ = done["judge"]
    with pytest.raises(nbkv.UnknownName, match=r"plnner.*planner"):
        _ = done["plnner"]
