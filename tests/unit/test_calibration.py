from dataclasses import dataclass
from typing import ClassVar

import pytest

from nbkv.errors import BadPrompt
from nbkv.session.certificates.calibration import Calibration, build, listed
from nbkv.session.certificates.candidates import sorted_out
from nbkv.session.certificates.guarantee import Guarantee
from nbkv.strategy import parse
from nbkv.tasks import Item


@pytest.fixture
def session(session_of):
    return session_of()


@pytest.fixture
def items(words):
    return [Item([words(12, seed=i), words(12, seed=i + 50)], words(4, seed=i + 99), [], "made") for i in range(6)]


LOOSE = Guarantee(max_kl=99, rate=0.5, alpha=0.5)


def measured(session, questions, specs, promise=LOOSE):
    ctx = session._ctx.for_request()
    tried = sorted_out([parse(spec) for spec in specs])
    full = Calibration(build(questions, "auto", ctx), tried, promise, "auto", ctx)
    assert ctx.carry_out(Named(full)) == ""
    return tried, full


class Named:
    """A calibration as the work that it is."""

    work, total = "certify", 1

    def __init__(self, full):
        self.steps, self.found = full.steps, dict


def test_items_texts_and_parts_become_prompts(session, items, words):
    chunk = session.chunk(words(10), name="c")
    made = build([items[0], words(9), [words(2), chunk, words(3)]], "auto", session._ctx.for_request())

    assert [len(prompt.chunks) for prompt in made] == [2, 0, 1]
    assert made[1].ids == tuple(session.tokenizer(words(9))["input_ids"])
    with pytest.raises(BadPrompt, match=r"^prompt 2: the prompt is empty"):
        build([words(3), ""], "auto", session._ctx.for_request())
    with pytest.raises(BadPrompt, match=r"^prompt 1 is a int \(accepted: an item"):
        build([7], "auto", session._ctx.for_request())
    for nothing in ([], "a text", {"prompt": "a text"}, 7):
        with pytest.raises(BadPrompt, match="prompts is a list of many"):
            listed(nothing)


def test_what_is_measured_is_what_compare_measures(session, items):
    spec = "cacheblend(budget=0.1)"
    tried, full = measured(session, items[:2], [spec])
    (step,) = tried.ladders[0].steps
    parts = [session.chunk(text, name=f"c{i}") for i, text in enumerate(items[0].chunks)]
    row = session.compare([*parts, items[0].question], [spec], repeat=1, max_new_tokens=1).rows[1]

    assert step.kls[0] == pytest.approx(row["kl"], rel=1e-5)
    assert step.kls[0] > 1e-6
    assert step.shares[0] == row["compute_share"] < 1
    assert len(full.ttfts) == len(step.ttfts) == 2
    assert full.floor >= 0


def test_a_prompt_the_session_has_seen_is_measured_as_one_it_has_not(session, items):
    fresh, _ = measured(session, items[:1], ["cacheblend(budget=0.1)", "prefix"])
    session.generate([*items[0].chunks, items[0].question], strategy="prefix", max_new_tokens=1)
    before = session.store.tiers
    again, _ = measured(session, items[:1], ["cacheblend(budget=0.1)", "prefix"])

    assert again.ladders[0].steps[0].kls == fresh.ladders[0].steps[0].kls
    assert again.exact[0].shares == fresh.exact[0].shares
    assert repr(session.store.tiers) == repr(before)
    assert session.stats.requests == 1


def test_steps_below_one_that_is_out_are_not_run_any_more(session, items):
    specs = ["cacheblend(budget=0.3)", "cacheblend(budget=0.1)", "prefix"]
    tried, _ = measured(session, items, specs, Guarantee(max_kl=0.0, rate=0.5, alpha=0.5))
    (first, second), allowed = tried.ladders[0].steps, Guarantee(0.0, 0.5, 0.5).allowed(len(items), 1)

    assert len(first.kls) == len(tried.exact[0].kls) == len(items)
    assert first.above(0.0) > allowed
    assert len(second.kls) == allowed + 1  # by then its safer neighbour was out


def test_a_stop_leaves_the_session_as_it_was(session, items):
    @dataclass(kw_only=True, repr=False)
    class Stopping(type(parse("full"))):
        name: ClassVar[str] = ""
        exact: ClassVar[bool] = True

        @property
        def spec(self):
            return "stopping"

        def prefill(self, request, ctx):
            session.stop()
            return super().prefill(request, ctx)

    stopped = session.certify(items, max_kl=1, strategies=[Stopping()])
    assert stopped.stopped == "stopped after 0 of 6 steps"
    assert (stopped.ok, stopped.chosen) == (False, None)
    assert "nothing is certified" in repr(stopped)
    assert not session.busy
    assert session.generate("w1 w2", max_new_tokens=2).finish_reason != "interrupted"
