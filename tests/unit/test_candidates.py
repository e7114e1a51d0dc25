import pytest

import nbkv
from nbkv.errors import BadOption, UnknownName, UnsupportedModel
from nbkv.registry import strategies
from nbkv.session.certificates.candidates import BUDGETS, candidates, sorted_out
from nbkv.strategy import parse


@pytest.fixture
def tried(session_of):
    ctx = session_of()._ctx.for_request()

    def ask(asked=None, *, chunks=True):
        return candidates(asked, ctx, chunks=chunks)

    return ask


def test_the_usual_ones_are_every_chunk_strategy_that_fits_at_falling_budgets(tried):
    found = tried()
    kinds = {one.name for one in found.strategies if not one.exact}

    assert [step.spec for step in found.exact] == ["prefix"]
    assert {parse(step.spec).budget for step in found.ladders[0].steps} == set(BUDGETS)
    assert all([step.budget for step in ladder.steps] == list(BUDGETS) for ladder in found.ladders)
    assert len(found.ladders) == len(kinds) > 1
    for name in kinds:
        assert strategies.get(name).family == "blend"
    assert all(not kept for kept in (kinds & {"kvshare", "cachecraft"}, kinds & {"auto"}))


def test_a_ladder_is_what_differs_in_its_budget_alone_and_falls():
    asked = [
        "snapkv(keep=0.2)",
        "passage(budget=0.1)",
        "full",
        "snapkv(keep=0.6)",
        "passage(hop=0.5)",
        "snapkv(per='layer')",
    ]
    found = sorted_out([parse(one) for one in asked])

    assert [[step.spec for step in ladder.steps] for ladder in found.ladders] == [
        ["snapkv(keep=0.6)", "snapkv(keep=0.2)"],
        ["passage(budget=0.1)"],
        ["passage(hop=0.5)"],
        ["snapkv(per='layer')"],
    ]
    assert [step.spec for step in found.exact] == ["full"]
    assert len(found.strategies) == 6


def test_the_same_strategy_twice_is_one(tried):
    assert len(tried("prophet(budget=0.2), prophet,prophet(0.2)").strategies) == 1


@pytest.mark.parametrize("spec", ["kvshare", "cachecraft", "auto(max_kl=0.1)", "snapkv(inner='kvshare')"])
def test_what_learns_from_requests_is_refused(tried, spec):
    with pytest.raises(BadOption, match="depends on the requests before it"):
        tried([spec])


def test_nothing_to_try_is_one_line(tried):
    with pytest.raises(BadOption, match="no prompt has chunks: name the strategies to try"):
        tried(chunks=False)
    with pytest.raises(BadOption, match="strategies is empty"):
        tried("")
    with pytest.raises(UnknownName, match="prophet"):
        tried("prophett")


def test_a_model_that_no_chunk_strategy_can_serve_is_refused(session_of):
    ctx = session_of("bloom")._ctx.for_request()
    with pytest.raises(UnsupportedModel, match="no chunk strategy can serve"):
        candidates(None, ctx, chunks=True)


def test_a_strategy_that_failed_its_self_check_is_no_usual_one(session_of):
    from nbkv.session.arguments import verdict_name

    session = session_of()
    ctx = session._ctx.for_request()
    failed = parse("prophet(budget=0.3)")
    ctx.verdicts.put(verdict_name(failed, ctx), "cold: error 1, limit 0")
    found = {one.spec for one in candidates(None, ctx, chunks=True).strategies}
    assert failed.spec not in found
    assert "prophet(budget=0.1)" in found


def test_defaults_that_a_small_model_does_not_take_are_left_out(make_model, make_tokenizer):
    with nbkv.load(make_model("llama", num_hidden_layers=2), tokenizer=make_tokenizer()) as session:
        found = candidates(None, session._open().for_request(), chunks=True).strategies
        report = session.verify(["full", "cacheblend"])

    names = {one.name for one in found}
    assert "epic" in names
    assert "cacheblend" not in names
    assert any("check_layers=(1,) is not accepted" in row["note"] for row in report.rows)
