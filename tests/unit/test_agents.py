"""Facts handed along: chains with known answers, what counts as right, and that the bundled reader can do them."""

from __future__ import annotations

import pytest

import nbkv
from nbkv.session.pipelines.evaluation import evaluate_agents
from nbkv.tasks.chains.agents import TELLER, agents


class Said:
    def __init__(self, text):
        self.text = text


def right(task):
    between = "\n" if task.kind == "list" else " "
    return {name: Said(between.join(lines)) for name, lines in task.lines.items()}


@pytest.mark.parametrize("form", ["list", "notes"])
def test_the_same_seed_gives_the_same_chains(form):
    assert agents(seed=3, n=4, form=form) == agents(seed=3, n=4, form=form)
    assert agents(seed=3, n=4, form=form) != agents(seed=4, n=4, form=form)


@pytest.mark.parametrize("form", ["list", "notes"])
@pytest.mark.parametrize(("number", "first", "lines"), [(2, 3, 1), (5, 8, 2), (4, 2, 5)])
def test_what_is_asked_was_handed_on_by_agents_only(form, number, first, lines):
    for task in agents(n=5, agents=number, first=first, lines=lines, form=form):
        assert len(task.prompts) == number
        assert list(task.prompts) == list(task.lines)
        assert list(task.prompts)[-1] == TELLER
        assert not any(name in task.prompts[TELLER] for name in task.inputs)
        assert task.lines[TELLER][0] not in task.prompts[TELLER]
        told = " ".join(task.inputs.values())
        assert all(
            word in told for lines in list(task.lines.values())[:-1] for line in lines for word in line.split()[:1]
        )
        assert set(task.scores(right(task)).values()) == {1.0}


@pytest.mark.parametrize("form", ["list", "notes"])
def test_what_is_missing_wrong_or_said_twice_is_not_right(form):
    (task,) = agents(n=1, agents=3, first=4, lines=4, form=form)
    lines, between = task.lines["keeper1"], "\n" if form == "list" else " "
    for said, share in (
        (lines[:3], 0.75),
        ([*lines, lines[1]], 0.75),
        ([*lines[:3], lines[3].replace(" ", " 9", 1)], 0.75),
        ([], 0.0),
    ):
        assert task.scores(right(task) | {"keeper1": Said(between.join(said))})["keeper1"] == share
    for said in ("nobody knows", task.lines[TELLER][0] + "9", ""):
        assert task.scores(right(task) | {TELLER: Said(said)})[TELLER] == 0
    assert task.scores({})[TELLER] == 0


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"agents": 1}, {"first": 0}, {"lines": 0}, {"first": 10_000}, {"form": "poem"}],
)
def test_chains_that_cannot_be_are_refused(wrong):
    with pytest.raises(nbkv.BadOption, match=next(iter(wrong))):
        agents(**wrong)


def test_the_bundled_reader_hands_facts_on():
    with nbkv.load("tiny") as session:
        tasks = agents(n=3, agents=4, first=5, lines=4, form="notes")
        frame = evaluate_agents(session, tasks, "full,prefix", fidelity=True)

        assert len(frame) == 2 * 3 * 4
        assert frame["correct"].mean() == 1
        assert frame["kl"].max() < 1e-6
        assert (frame[frame.strategy == "full"].reused == 0).all()
        assert (frame.groupby("strategy").agent.unique().map(list) == [list(tasks[0].prompts)] * 2).all()


def test_an_agent_that_fails_fails_the_evaluation():
    with nbkv.load("tiny") as session, pytest.raises(nbkv.NbkvError, match="agent 'keeper1'"):
        evaluate_agents(session, agents(n=1, form="notes"), logits_processor=[lambda ids, scores: ids[100]])


@pytest.mark.parametrize("before", ["prefix", "kvcomm", "full"])
def test_what_one_strategy_left_is_none_of_the_next_ones(before):
    tasks = agents(seed=0, n=1, agents=3, first=4, lines=4, form="notes")
    with nbkv.load("tiny", strategy="full") as session:
        alone = evaluate_agents(session, tasks, "relay(budget=0)", fidelity=True)
    with nbkv.load("tiny", strategy="full") as session:
        both = evaluate_agents(session, tasks, [before, "relay(budget=0)"], fidelity=True)
    second = both[both["strategy"] == "relay(budget=0)"]
    assert alone["kl"].max() > 1e-6
    assert second["kl"].tolist() == pytest.approx(alone["kl"].tolist(), rel=1e-3, abs=1e-9)
    assert second["reused"].tolist() == alone["reused"].tolist()


def test_a_store_that_is_more_than_memory_is_not_emptied(tmp_path):
    with (
        nbkv.load("tiny", store=f"memory+disk:{tmp_path}") as session,
        pytest.raises(nbkv.BadOption, match="the store is emptied between strategies"),
    ):
        evaluate_agents(session, agents(n=1, form="notes"), "full,prefix")
