"""Searches over steps: branches are what each is alone, K/V are held once, and whatever happens, the rest."""

from __future__ import annotations

import json
import signal
from itertools import pairwise

import numpy as np
import pytest

import nbkv
from nbkv.errors import BadOption, BadPrompt, NbkvError, UnknownName, UnsupportedModel
from nbkv.events import Advanced, Finished, Started

METHODS = ["rebase", "beam", "dvts", "ets", "ets(lambda_d=0)"]


def worth(texts):
    """A reward that is the same for the same text, and else as good as drawn."""
    return [sum(ord(char) * (at % 7 + 1) for at, char in enumerate(text)) % 97 / 97 for text in texts]


def search(session, prompt, **options):
    given = {"reward": worth, "width": 6, "depth": 3, "step_tokens": 4, "max_new_tokens": 10} | options
    return session.search(prompt, **given)


class Watching:
    """A processor that changes nothing and notes the logits of every branch."""

    def __init__(self):
        self.seen = []

    def __call__(self, ids, scores):
        self.seen.append((ids[0].tolist(), scores[0].clone()))
        return scores


def agrees(session, seen):
    for ids, logits in seen:
        expected = session.adapter.plain(session.adapter.tensor(ids))[-1]
        assert float((logits - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("method", METHODS)
def test_the_logits_of_every_branch_are_those_it_has_alone(session_of, words, method):
    session, watching = session_of(), Watching()
    found = search(session, words(30), method=method, logits_processor=[watching])
    assert len(watching.seen) == found.generated == sum(len(row) for row in token_lists(found))
    agrees(session, watching.seen[:: max(1, len(watching.seen) // 24)])


@pytest.mark.parametrize("family", ["mistral", "gemma3", "mixtral", "qwen2_vl"])
def test_on_other_models_too(session_of, words, family):
    session, watching = session_of(family), Watching()
    found = search(session, words(40), logits_processor=[watching])
    assert len(found.trajectories) == 6
    agrees(session, watching.seen[::9])


def token_lists(found):
    frame = found.to_frame()
    return [[None] * count for count in frame["tokens"]]


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"seed": 3}, {"seed": 4, "top_p": 0.7, "repetition_penalty": 1.3}]
)
@pytest.mark.parametrize(
    "step", [{"step_tokens": 1}, {"step_tokens": 3}, {"step_tokens": 50, "step_stop": ["w1", "7"]}]
)
def test_a_search_of_width_one_is_generate(session_of, words, options, step):
    session = session_of()
    options = {"temperature": 1.0} | options
    alone = session.generate(words(20), max_new_tokens=12, **options)
    found = search(session, words(20), width=1, depth=40, max_new_tokens=12, **step, **options)
    assert found.best.token_ids == alone.token_ids
    assert found.best.text == alone.text
    assert found.best.finish_reason == alone.finish_reason
    assert found.best.prompt_ids == alone.prompt_ids


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_search_and_another_another(session_of, words, method):
    session = session_of()
    first, again, other = (search(session, words(20), method=method, seed=seed) for seed in (1, 1, 2))
    assert first.to_frame().equals(again.to_frame())
    assert not first.to_frame()["text"].equals(other.to_frame()["text"])


@pytest.mark.parametrize("method", METHODS)
def test_no_depth_has_more_branches_than_the_width(session_of, words, method):
    found = search(session_of(), words(20), method=method, width=7)
    assert [step.branches for step in found.steps] == [7, 7, 7]
    assert found.steps[0].parents == 1
    assert all(1 <= step.parents <= 7 for step in found.steps)
    frame = found.to_frame()
    assert set(frame["state"]) <= {"expanded", "pruned", "length", "stop"}
    assert len(frame[frame["state"] == "length"]) + len(frame[frame["state"] == "stop"]) == len(found.trajectories)
    best = frame[frame["best"]]
    assert list(best["depth"]) == list(range(1, len(best) + 1))
    assert best["reward"].iloc[-1] == found.reward == max(each.reward for each in found.trajectories)


def test_each_token_is_held_once_and_pruned_ones_are_not(session_of, words):
    session = session_of()
    found = search(session, words(20), method="beam(keep=1)", depth=4, max_new_tokens=50)
    token, prompt = session.adapter.token_bytes, found.prompt_tokens
    # one path of whole steps, and six branches whose last token has not run yet
    for before, step in enumerate(found.steps):
        assert step.held_bytes == token * (prompt + 4 * before + 6 * 3)
        assert step.alone_bytes == token * 6 * (prompt + 4 * before + 3)
        assert step.held_bytes <= step.allocated_bytes <= found.kv_bytes["peak"]
    assert found.kv_bytes["average"] == np.mean([step.held_bytes for step in found.steps])
    assert found.kv_bytes["alone"] > 3 * found.kv_bytes["average"]


def test_ets_holds_less_than_rebase(session_of, words):
    session = session_of()
    held = {
        method: search(session, words(20), method=method, width=12, depth=4, max_new_tokens=99).kv_bytes["average"]
        for method in ("rebase", "ets(lambda_b=2)")
    }
    assert held["ets(lambda_b=2)"] < held["rebase"]


# steps


def test_ragged_steps_end_behind_their_text_or_after_so_many_tokens(session_of, words):
    found = search(session_of(), words(20), step_stop=["1", "4", "6"], step_tokens=6, max_new_tokens=100, width=8)
    lengths = {len(text.split()) for text in found.to_frame()["text"]}
    assert len(lengths) > 1
    for text in found.to_frame()["text"]:
        *before, last = text.split()
        assert not any(mark in word for word in before for mark in "146")
        assert len(text.split()) == 6 or any(mark in last for mark in "146")
    for each in found.trajectories:
        assert each.text == "".join(each.steps)


def ends_after(n, eos):
    """A processor that lets every answer say the end token as its n-th."""

    def process(ids, scores):
        if ids.shape[1] == n:
            scores[:] = -1e9
            scores[:, eos] = 0
        return scores

    return process


@pytest.mark.parametrize("at", [0, 2, 3, 4])
def test_all_branches_may_end_at_once(session_of, words, at, monkeypatch):
    session = session_of()
    n = len(session.generate(words(20), max_new_tokens=1).prompt_ids)
    monkeypatch.setattr(session.adapter.model.generation_config, "eos_token_id", 1)
    found = search(session, words(20), logits_processor=[ends_after(n + at, 1)])
    assert {each.finish_reason for each in found.trajectories} == {"stop"}
    assert len(found.trajectories) == 6
    assert all(len(each.token_ids) == at + 1 for each in found.trajectories)
    assert len(found.steps) == at // 4 + 1


def test_duplicates_are_branches_like_others_and_said(session_of, words):
    session = session_of()
    found = search(session, words(20), temperature=0.0)
    alone = session.generate(words(20), max_new_tokens=10)
    assert {each.token_ids for each in found.trajectories} == {alone.token_ids}
    assert any("temperature 0" in note for note in found.notes)


@pytest.mark.parametrize("method", METHODS)
def test_a_stop_string_ends_an_answer_as_in_generate(session_of, words, method):
    session = session_of()
    alone = session.generate(words(20), max_new_tokens=10, stop=["3"])
    found = search(session, words(20), temperature=0.0, stop=["3"], depth=9, method=method)
    assert found.best.text == alone.text
    assert found.best.token_ids == alone.token_ids


@pytest.mark.parametrize("left", [1, 3, 6])
def test_answers_end_where_the_context_does(session_of, words, left):
    session = session_of()
    context = min(session.adapter.capabilities.context, session.adapter.capabilities.stable_context)
    found = search(session, words(context - left - 1), max_new_tokens=50, width=2)
    assert {len(each.token_ids) for each in found.trajectories} == {left}
    assert {each.finish_reason for each in found.trajectories} == {"length"}
    assert any("context" in note for note in found.notes)
    with pytest.raises(BadPrompt, match="too many"):
        search(session, words(context))


@pytest.mark.parametrize("prompt", ["w3", ["w3"], ["w3", " w4"]])
def test_a_prompt_of_very_few_tokens(session_of, prompt):
    found = search(session_of(), prompt)
    assert len(found.trajectories) == 6


# reuse


def test_the_prompt_is_kept_and_found_again(session_of, words):
    session = session_of()
    first, again = (search(session, words(30)).best for _ in range(2))
    assert first.tokens.reused == 0
    assert again.tokens.reused == len(again.prompt_ids) - 1
    for each in (first, again):
        tokens = each.tokens
        assert tokens.reused + tokens.recomputed + tokens.fresh == tokens.prompt == len(each.prompt_ids)
    assert session.generate(words(30), strategy="prefix", max_new_tokens=2).tokens.reused
    assert session.stats.requests >= 2


def test_best_counts_the_work_of_all_branches(session_of, words):
    session = session_of()
    best, wide = (search(session, words(30), width=width).best for width in (1, 6))
    assert best.compute.decode == 0
    assert wide.compute.decode > 0
    assert best.compute.share == pytest.approx(1.0)


def test_chunks_and_messages_are_prompts_too(session_of, words):
    session = session_of()
    chunk = session.chunk(words(12), name="notes")
    found = search(session, [chunk, words(5)])
    assert found.best.chunks[0][0] == "notes"


def test_events_tell_one_request_and_its_steps(session_of, words):
    session, heard = session_of(), []
    session.events.add(heard.append)
    search(session, words(20))
    assert [type(each) for each in heard if isinstance(each, (Started, Finished))] == [Started, Finished]
    steps = [each for each in heard if isinstance(each, Advanced)]
    assert [each.doing for each in steps if each.doing] == [f"step {n}, 6 branches" for n in (1, 2, 3)]
    assert steps[-1].over


# what goes wrong


@pytest.mark.parametrize("bad", [float("nan"), ValueError("no"), "high"])
def test_a_reward_that_fails_costs_its_branch_only(session_of, words, bad):
    def reward(texts):
        doomed = [int(text.split()[-1].strip("w.,?:") or 0) % 3 == 0 for text in texts]
        if isinstance(bad, Exception) and any(doomed):
            raise bad
        return [bad if lost else 0.5 for lost in doomed]

    found = search(session_of(), words(20), reward=reward, width=9, seed=5)
    assert found.errors
    assert found.trajectories
    frame = found.to_frame()
    for number, error in found.errors.items():
        assert f"branch {number}: reward" in str(error)
        assert frame.loc[number, "state"] == "failed"
        assert frame.loc[number, "error"] == str(error)
    assert found.best is not None


def raises(texts):
    raise ZeroDivisionError


def is_nan(texts):
    return [float("nan")] * len(texts)


def is_short(texts):
    return []


@pytest.mark.parametrize("reward", [raises, is_nan, is_short])
def test_a_reward_that_always_fails_is_an_error_that_keeps_the_branches(session_of, words, reward):
    session = session_of()
    with pytest.raises(NbkvError, match="no branch has a reward") as caught:
        search(session, words(20), reward=reward)
    assert len(caught.value.result.to_frame()) == 6
    assert caught.value.result.best is None
    assert session.last is caught.value.result
    assert "no answer" in repr(session.last)
    assert session.generate(words(20), max_new_tokens=2).token_ids


def test_stop_returns_what_there_is(session_of, words):
    session, calls = session_of(), []

    def reward(texts):
        calls.append(texts)
        if len(calls) == 2:
            session.stop()
        return worth(texts)

    found = search(session, words(20), reward=reward, depth=5, max_new_tokens=99)
    assert found.stopped
    assert len(found.steps) == 2
    assert {each.finish_reason for each in found.trajectories} == {"interrupted"}
    assert found.reward == max(each.reward for each in found.trajectories)
    assert session.last is found


@pytest.mark.parametrize("call", [1, 3])
def test_ctrl_c_raises_with_what_there_is(session_of, words, call):
    session, calls = session_of(), []

    def process(ids, scores):
        calls.append(ids)
        if len(calls) == call * 10:
            signal.raise_signal(signal.SIGINT)
        return scores

    with pytest.raises(KeyboardInterrupt) as caught:
        search(session, words(20), logits_processor=[process], depth=5, max_new_tokens=99)
    found = caught.value.result
    assert found is session.last
    assert found.trajectories
    assert (found.best is not None) == (call > 2)
    assert len(search(session, words(20)).trajectories) == 6


def test_a_processor_that_raises_leaves_the_tree_so_far(session_of, words):
    session, calls = session_of(), []

    def process(ids, scores):
        calls.append(ids)
        return scores if len(calls) < 40 else 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        search(session, words(20), logits_processor=[process], depth=5, max_new_tokens=99)
    assert caught.value.result.best is not None
    assert search(session, words(20)).trajectories


def test_a_reward_may_not_ask_the_session(session_of, words):
    session = session_of()
    with pytest.raises(NbkvError, match="busy with a request of this thread"):
        search(session, words(20), reward=lambda texts: [len(session.generate(t).text) for t in texts])


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"width": 0}, BadOption, "width=0 is not accepted"),
        ({"depth": 1.5}, BadOption, "depth=1.5"),
        ({"step_tokens": True}, BadOption, "step_tokens=True"),
        ({"step_stop": ""}, BadOption, "step_stop=''"),
        ({"step_stop": []}, BadOption, "step_stop"),
        ({"reward": 3}, BadOption, "reward is an int"),
        ({"embedding": "bert"}, BadOption, "embedding is a str"),
        ({"method": "mcts"}, UnknownName, "unknown method 'mcts'"),
        ({"method": "rebase(temperature=0)"}, BadOption, "temperature=0"),
        ({"method": "beam(widht=3)"}, BadOption, "unknown option 'widht'"),
        ({"method": "ets(lambda_b=-1)"}, BadOption, "lambda_b=-1"),
        ({"method": "prefix"}, UnknownName, "unknown method 'prefix'"),
        ({"method": 3}, BadOption, "method=3"),
        ({"widht": 3}, BadOption, "did you mean 'width'"),
        ({"max_new_tokens": 0}, BadOption, "max_new_tokens=0"),
        ({"temperature": -1}, BadOption, "temperature=-1"),
    ],
)
def test_bad_options_are_one_line(session_of, words, options, error, told):
    with pytest.raises(error) as caught:
        search(session_of(), words(20), **options)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["gpt2", "deepseek_v3", "bloom"])
def test_models_whose_branches_cannot_share_passes_are_refused(session_of, words, family):
    with pytest.raises(UnsupportedModel) as caught:
        search(session_of(family), words(20))
    assert "\n" not in str(caught.value)


# meanings


def test_an_embedding_of_the_callers_says_what_steps_mean(session_of, words):
    asked = []

    def embedding(texts):
        asked.append(list(texts))
        return np.eye(8)[[len(text) % 8 for text in texts]]

    found = search(session_of(), words(20), method="ets(lambda_b=4, lambda_d=4)", embedding=embedding)
    assert [len(texts) for texts in asked] == [6, 6]  # those of the last depth have ended
    assert {text for texts in asked for text in texts} <= set(found.to_frame()["text"])


def test_an_embedding_that_fails_is_told_and_keeps_the_tree(session_of, words):
    session = session_of()
    with pytest.raises(NbkvError, match="embedding gave an array of shape") as caught:
        search(session, words(20), embedding=lambda texts: [1.0])
    assert caught.value.result.best is not None
    assert not session.adapter.model.get_output_embeddings()._forward_pre_hooks


# a strategy, a view


def test_as_a_strategy_it_continues_prefixes_exactly(session_of, words):
    session = session_of(strategy="ets(lambda_b=2.0)")
    assert (
        session.generate(words(30), max_new_tokens=4).token_ids
        == session.generate(words(30), strategy="full", max_new_tokens=4).token_ids
    )
    assert search(session, words(30)).method == "ets(lambda_b=2.0)"
    assert search(session, words(30), method="beam(2)").method == "beam(keep=2)"
    row = nbkv.strategies().set_index("name").loc["ets"]
    assert "2502.13575" in row["paper"]


def test_results_are_data_and_views(session_of, words):
    found = search(session_of(), words(20))
    data = json.loads(json.dumps(found.to_dict()))
    assert data["kind"] == "search"
    assert len(data["nodes"]) == len(found.to_frame()) == 18
    assert found.text in repr(found)
    page = found._repr_html_()
    assert "<script" not in page
    assert "the tree: 18 steps" in page
    assert found.text == found.best.text == found.trajectories[0].text
    assert [a.reward >= b.reward for a, b in pairwise(found.trajectories)]
    assert found.tokens_per_s > 0


def test_votes_are_weighted_by_rewards(session_of, words):
    found = search(session_of(), words(20))
    by_length = {}
    for each in found.trajectories:
        by_length[len(each.text) % 2] = by_length.get(len(each.text) % 2, 0) + each.reward
    assert found.vote(lambda text: len(text) % 2) == max(by_length, key=by_length.get)
    assert found.vote(lambda text: None) is None
