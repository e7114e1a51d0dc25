"""Certificates from end to end on the bundled reader: what they promise, refuse, say and keep."""

import json
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser

import pytest

import nbkv
from nbkv.errors import BadOption, BadPrompt
from nbkv.models.identity.verdicts import Verdicts
from nbkv.session.certificates import Certificate
from nbkv.show.certificate import COLUMNS

LADDER = ["passage(budget=0.3)", "passage(budget=0.1)"]
FEW = {"alpha": 0.3, "rate": 0.3}  # with one strategy tried 4 prompts can be enough, with two 6


@pytest.fixture(scope="module")
def session():
    with pytest.MonkeyPatch.context() as patch, nbkv.load("tiny") as opened:
        patch.setattr("nbkv.session.measure._GREEDY", 4)
        yield opened


@pytest.fixture(scope="module")
def items():
    return nbkv.tasks.ledger(seed=3, n=8, chunks=3, lines=6)


@pytest.fixture(scope="module")
def loose(session, items):
    return session.certify(items, max_kl=5.0, strategies=["prefix", *LADDER], **FEW)


@pytest.fixture(scope="module")
def refused(session, items):
    return session.certify(items, max_kl=0, strategies=[*LADDER, "cacheblend(budget=0)"], **FEW)


def verdicts(certificate):
    return {row["strategy"]: row["verdict"] for row in certificate.rows}


def test_a_loose_bound_certifies_the_cheapest_that_was_tried(loose):
    shares = {row["strategy"]: row["compute_share"] for row in loose.rows}

    assert verdicts(loose) == {"prefix": "exact", LADDER[0]: "certified", LADDER[1]: "certified"}
    assert loose.chosen == min(shares, key=shares.get) == LADDER[1]
    assert (
        loose.why
        == f"{LADDER[1]}: with confidence 70 %, at most 30 % of prompts like these are farther than 5 nats from full"
    )
    assert loose.ok
    for row in loose.rows[1:]:
        assert row["n"] == len(row["kls"]) == 8
        assert row["p"] <= loose.alpha
        assert row["bound"] <= loose.rate
        assert row["kl"] <= row["kl_max"] == max(row["kls"])
        assert row["ttft_ratio"] > 0


def test_no_error_at_all_certifies_only_what_is_exact(session, items):
    found = session.certify(items, max_kl=0, strategies=["prefix", *LADDER], **FEW)

    assert verdicts(found) == {"prefix": "exact", LADDER[0]: "refused", LADDER[1]: "not tested"}
    assert found.chosen == "prefix"
    assert found.why.startswith(
        f"prefix, which is exact: no approximation is certified (nearest is {LADDER[0]}: 8 of 8"
    )


def test_a_refusal_says_what_it_would_take(session, items, refused):
    assert refused.chosen is None
    assert not refused.ok
    assert "\n" not in refused.why
    enough = float(refused.why.split("it would take max_kl=")[1].split()[0])
    again = session.certify(items, max_kl=enough, strategies=[*LADDER, "cacheblend(budget=0)"], **FEW)
    assert again.ok


def test_it_says_what_it_is_about_and_can_be_checked_later(session, loose, tmp_path):
    path = tmp_path / "certificate.json"
    path.write_text(json.dumps(loose.to_dict()))
    kept = Certificate.from_dict(json.loads(path.read_text()))

    assert kept == loose
    assert kept.is_about(session)
    assert (kept.fingerprint, kept.dtype) == (session.adapter.fingerprint, "torch.float32")
    assert (kept.n, kept.max_kl, kept.rate, kept.alpha, kept.sink) == (8, 5.0, 0.3, 0.3, "auto")
    assert kept.sinks == (session.chunk("It rained .", name="rain").sink,)
    with nbkv.load("tiny", dtype="bfloat16") as other:
        assert not kept.is_about(other)
    assert session.use(kept.chosen).spec == kept.chosen


def test_it_shows_itself_as_text_table_and_html(loose, refused):
    frame = loose.to_frame()
    assert list(frame["strategy"]) == [row["strategy"] for row in loose.rows]
    assert "kls" not in frame
    text = repr(loose)
    assert text.splitlines()[0] == loose.why
    assert all(name in text.splitlines()[1] for name in COLUMNS)
    assert "certified, chosen" in text
    assert repr(refused).splitlines()[0] == f"refused: {refused.why}"
    html, parser = refused._repr_html_(), _Balanced()
    parser.feed(html)
    assert parser.open == []
    assert "<script" not in html
    assert "refused: no approximation is certified" in html


class _Balanced(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag != "wbr":  # nothing closes it
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_prompts_that_repeat_are_told(session, items):
    found = session.certify([*items, *items[:2]], max_kl=5, strategies=LADDER, **FEW)
    assert found.notes[0] == "2 of 10 prompts repeat another: right only where prompts to come repeat as often"


def test_what_cannot_be_is_refused_before_anything_runs(session, items, monkeypatch):
    monkeypatch.setattr("nbkv.session.certificates.calibration.ComparisonRun", None)
    with pytest.raises(BadOption, match=r"^8 prompts are too few: "):
        session.certify(items, max_kl=1)
    with pytest.raises(BadOption, match="no prompt has chunks"):
        session.certify(["a question ."] * 9, max_kl=1)
    with pytest.raises(BadOption, match="max_kl="):
        session.certify(items, max_kl=-1)
    with pytest.raises(BadOption, match="sink='nowhere'"):
        session.certify(items, max_kl=1, sink="nowhere")
    with pytest.raises(BadPrompt, match="prompts is a list"):
        session.certify([], max_kl=1)


@pytest.mark.parametrize(
    ("n", "asked", "needed"),
    [
        (8, {}, r"8 prompts are too few: \d\d are needed"),
        (3, {"strategies": LADDER, **FEW}, "3 prompts .*: 4 are needed"),
        (1, {"strategies": [*LADDER, "prophet"], **FEW}, "1 prompt is too little: 6 are needed"),
    ],
)
@pytest.mark.parametrize("sink", ["auto", "primer", "none"])
def test_too_few_prompts_are_refused_before_the_model_runs(session, items, monkeypatch, n, asked, needed, sink):
    """Also before it is measured which sink suits the model, which takes passes of its own."""
    ran = []
    monkeypatch.setattr(session, "_ctx", replace(session._ctx, verdicts=Verdicts()))  # nothing is known of the model
    with ran_by(session.adapter.model, ran):
        with pytest.raises(BadOption, match=needed):
            session.certify(items[:n], max_kl=1, sink=sink, **asked)
        assert not ran
        session.chunk("It rained .", sink="primer")
    assert ran, "this is how passes are seen"


@contextmanager
def ran_by(model, ran):
    """Note in ``ran`` each time that the first layer of ``model`` runs."""
    hook = model.model.layers[0].register_forward_pre_hook(lambda *_: ran.append(True))
    yield
    hook.remove()


def test_plain_prompts_are_measured_under_what_is_named(session, items):
    texts = ["".join([*item.chunks, item.question]) for item in items]
    found = session.certify(texts, max_kl=50, strategies="snapkv(keep=0.5), snapkv(keep=0.9)", **FEW)

    assert [row["strategy"] for row in found.rows] == ["snapkv(keep=0.9)", "snapkv"]
    assert [row["verdict"] for row in found.rows] == ["certified", "certified"]
    assert found.sinks == ()
