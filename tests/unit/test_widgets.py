"""The live views without a browser: what they are told, how often, and what they leave behind."""

import json
import subprocess
import sys
import threading
from itertools import pairwise
from types import SimpleNamespace

import pytest
from waiting import PATIENCE_S, hold, until

import nbkv
from nbkv.events import Token
from nbkv.widgets import throttle
from nbkv.widgets.choices import choices, spec
from nbkv.widgets.conversation import Conversation
from nbkv.widgets.dashboard import Dashboard
from nbkv.widgets.playground import Playground
from nbkv.widgets.throttle import Pace

NOTES = "Nina pays in krona . The lamp cost her 48 . Omar keeps the blue box ."
VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(scope="module")
def session():
    with nbkv.load("tiny") as made:
        config = made.adapter.model.generation_config
        config.suppress_tokens = [config.eos_token_id]  # answers are as long as a test asks for
        made.chunk(NOTES, name="notes")
        made.chunk("The rate is 3 .", name="rate")
        yield made


@pytest.fixture
def dash(session):
    session.use("prefix")
    view = Dashboard(session)
    view.act({"do": "reset"})
    yield view
    view.close()


@pytest.fixture
def play(session):
    view = Playground(session)
    yield view
    view.close()


def tell(view, **given):
    """Send what the front end would send."""
    view._handle_custom_msg(given, [])


class Clock:
    """Time that passes when a test says so, and the timers that come due meanwhile."""

    def __init__(self):
        self.now, self.timers = 0.0, []

    def monotonic(self):
        return self.now

    def Timer(self, seconds, function):  # noqa: N802
        return SimpleNamespace(start=lambda: self.timers.append((self.now + seconds, function)))

    def pass_by(self, seconds):
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer[0] <= end]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = max(self.now, end)


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(throttle, "time", made)
    monkeypatch.setattr(throttle, "threading", SimpleNamespace(Timer=made.Timer, Lock=threading.Lock))
    return made


def test_updates_are_few_and_the_last_state_is_sent(clock):
    value, sent = 0, []
    pace = Pace(lambda: sent.append((clock.now, value)), interval=0.05)
    for value in range(1, 421):  # noqa: B007  (sent when it is time)
        pace.touch()
        clock.pass_by(0.001)
    clock.pass_by(1)
    assert sent[-1][1] == value == 420
    assert len(sent) == 10
    assert [b - a for (a, _), (b, _) in pairwise(sent)] == pytest.approx([0.05] * 9, abs=1e-3)


def test_what_goes_on_is_sent_in_passing_and_its_end_for_certain(clock):
    sent, ended = [], []
    pace = Pace(lambda: ended.append(clock.now), interval=0.05)
    for _ in range(220):
        pace.pass_by(lambda: sent.append(clock.now))
        clock.pass_by(0.001)
    assert clock.timers == []
    assert sent == pytest.approx([0, 0.05, 0.1, 0.15, 0.2], abs=6e-3)
    pace.touch()
    assert ended == []
    clock.pass_by(0.05)
    assert len(ended) == 1


def test_slow_updates_are_fewer(clock):
    sent = []

    def send():
        sent.append(clock.now)
        clock.now += 0.004

    pace = Pace(send, interval=0.01)
    for _ in range(700):
        pace.touch()
        clock.pass_by(0.001)
    # 4 ms each may be two per cent of the time
    assert sent == pytest.approx([0, 0.204, 0.408, 0.612], abs=5e-3)


def test_touching_while_a_lock_is_held_that_sending_needs():
    lock, sent = threading.Lock(), threading.Event()

    def send():
        assert threading.current_thread() is not threading.main_thread(), "it would wait for itself"
        with lock:
            sent.set()

    pace = Pace(send)
    with lock:
        pace.touch()
    assert sent.wait(PATIENCE_S)


def test_a_dashboard_counts_what_the_session_counts(session, dash):
    results = [session.generate([session.chunks["notes"], "Who pays ?"], max_new_tokens=4) for _ in range(2)]
    session.generate("Who pays ?", strategy="cacheblend", max_new_tokens=3, fidelity=True)
    until(lambda: dash.state["requests"] == 3)
    state = json.loads(json.dumps(dash.state))
    assert [row["hit_rate"] for row in state["rows"][:2]] == [result.hit_rate for result in results]
    assert [row["ttft_s"] for row in state["rows"][:2]] == [result.timing.ttft_s for result in results]
    assert [row["kl"] is None for row in state["rows"]] == [True, True, False]
    assert state["tiers"][0]["bytes"] == session.store.figures()[0]["bytes"] > 0
    until(lambda: dash.live == {})
    assert f"3 requests · {state['hit_rate']:.0%}".replace("%", " %") in repr(dash)


def test_a_dashboard_begins_with_the_requests_before_it(session):
    session.generate("Who pays ?", max_new_tokens=2)
    view = Dashboard(session)
    assert view.state["requests"] == session.stats.requests
    view.close()


def test_a_running_request_shows_its_tokens_and_speed(session, dash, monkeypatch):
    monkeypatch.setattr(dash._pace, "_interval", 0.0)
    monkeypatch.setattr(throttle, "LONGEST", 0.0)
    until(lambda: not dash._pace._due)
    with dash._pace._sending:
        dash._pace._next = 0.0
    seen = []
    dash.observe(lambda change: seen.append(change["new"]), "live")

    def sent(event):
        if isinstance(event, Token):
            until(lambda: not dash._pace._due)  # what is on its way in another thread

    session.events.add(sent)
    session.generate("Who pays ?", max_new_tokens=10)
    session.events.drop(sent)
    until(lambda: dash.state["requests"] == 1 and not dash.live)
    counts = [live["tokens"] for live in seen if live and live["tokens"]]
    assert counts == sorted(counts)
    assert len(counts) >= 8
    assert any(live["tokens_per_s"] for live in seen if live)
    assert seen[-1] == {}


def test_a_closed_dashboard_hears_nothing(session):
    view = Dashboard(session)
    heard = len(session.events._listeners)
    view.close()
    assert len(session.events._listeners) == heard - 1


def test_strategy_and_budget_act_on_the_session(session, dash):
    tell(dash, do="use", strategy="cacheblend", value=0.4)
    assert session.strategy.spec == "cacheblend(budget=0.4)"
    until(lambda: dash.state["picked"] == {"strategy": "cacheblend", "value": 0.4})
    tell(dash, do="use", strategy="kvlink", value=None)
    assert session.strategy.spec == "cacheblend(budget=0.4)"
    until(lambda: dash.state["said"])
    assert "\n" not in dash.state["said"]
    tell(dash, do="use", strategy="prefix", value=None)
    until(lambda: dash.state["said"] == "")


def test_a_paused_dashboard_is_sent_nothing_and_misses_nothing(session, dash):
    tell(dash, do="pause")
    until(lambda: dash.state["paused"] and not dash._pace._due)
    session.generate("Who pays ?", max_new_tokens=2)
    assert not dash._pace._due
    assert dash.state["requests"] == 0
    tell(dash, do="resume")
    until(lambda: dash.state["requests"] == 1)


def test_reset_leaves_the_session_alone(session, dash):
    session.generate("Who pays ?", max_new_tokens=2)
    held, served = session.store.nbytes, session.stats.requests
    tell(dash, do="reset")
    until(lambda: dash.state["requests"] == 0)
    assert dash.state["rows"] == []
    assert (session.store.nbytes, session.stats.requests) == (held, served)


def test_evictions_during_a_request_do_not_stand_in_its_way():
    with nbkv.load("tiny", store="memory?device=3MiB") as session:
        view = Dashboard(session)
        for number in range(12):  # the store tells of evictions while it is locked, and is looked at all the time
            session.generate(f"{number} " + "word " * 200, max_new_tokens=2)
            view.refresh()
        until(lambda: view.state["evictions"] == session.stats.evictions > 0)
        session.use_store("memory")
        view.refresh()
        until(lambda: view.state["evictions"] == 0)
    view.refresh()
    until(lambda: view.state["closed"])
    view.close()


def test_choices_are_the_registry_with_what_this_model_can_do(session):
    found = {one["name"]: one for one in choices(session)}
    assert list(found) == nbkv.strategies()["name"].tolist()
    assert found["cacheblend"]["knob"] == "budget"
    assert found["full"]["knob"] == ""
    assert "weights" in found["kvlink"]["why"]
    assert spec({"strategy": "full", "value": 0.5}) == "full"
    assert spec({"strategy": "epic", "value": 0.25}) == "epic(budget=0.25)"


def test_the_playground_runs_what_was_picked(session, play):
    tell(play, do="run", strategy="cacheblend", value=0.5, order=["rate", "notes"], text="Who pays ?", max_new=5)
    until(lambda: play.cards)
    result = session.last
    assert result.strategy == "cacheblend(budget=0.5)"
    assert [name for name, *_ in result.chunks] == ["rate", "notes"]
    drawn, again = (html.partition("<details")[0] for html in (play.cards[0]["html"], result._repr_html_()))
    assert drawn == again  # why tokens were not reused is found out when it is drawn, against all that was asked since
    until(lambda: not play.state["running"])
    assert "rate, notes" in repr(play)
    tell(play, do="clear")
    assert play.cards == []


@pytest.mark.parametrize("second", ["prefix", "cacheblend", "epic", "full"])
def test_no_run_finds_what_an_earlier_one_computed(second):
    def sources(*strategies):
        with nbkv.load("tiny") as fresh:
            fresh.chunk(NOTES, name="notes")
            view, before = Playground(fresh), fresh.store.figures()
            for n, strategy in enumerate(strategies, 1):
                asked = {"order": ["notes"], "text": "Who pays ?", "max_new": 3}
                tell(view, do="run", strategy=strategy, value=0.5, **asked)
                until(lambda n=n: len(view.cards) == n and not view._run.running)
            assert fresh.store.figures()[0]["bytes"] == before[0]["bytes"]
            view.close()
            return fresh.last.provenance.tolist()

    assert sources("prefix", "prefix", second) == sources(second)


def test_a_run_on_a_busy_session_is_one_clear_line(session, play):
    stream = session.stream("Who pays ?", max_new_tokens=4)
    next(stream)
    tell(play, do="run", strategy="full", order=[], text="Who ?")
    until(lambda: play.state["said"])
    assert play.state["said"].startswith("the session is busy with a request: wait for it to end or stop it")
    assert not play._run.running
    stream.close()
    assert play.cards == []


def test_what_cannot_be_run_is_said_in_one_line(play):
    tell(play, do="run", strategy="full", order=[], text="")
    until(lambda: play.state["said"])
    assert play.state["said"].startswith("there is nothing to run")
    tell(play, do="run", strategy="cacheblend", value=7, order=["notes"], text="Who ?")
    until(lambda: "budget" in play.state["said"])
    until(lambda: not play.state["running"])


def test_a_run_can_be_stopped(session, play):
    resting = hold(session, 40)
    tell(play, do="run", strategy="full", order=[], text="Who pays ?", max_new=3000)
    until(lambda: len(play.state["text"]) > 20)
    tell(play, do="stop")
    until(lambda: play.cards)
    session.events.drop(resting)
    assert "interrupted" in play.cards[0]["text"]
    assert session.last.finish_reason == "interrupted"


@pytest.mark.parametrize("make", [Dashboard, Playground])
def test_views_have_a_static_picture_and_words(session, make):
    view = make(session)
    bundle = view._repr_mimebundle_()
    assert bundle[VIEW]["model_id"] == view.model_id
    assert bundle["text/plain"] == repr(view)
    assert "tiny" in bundle["text/plain"]
    assert "<script" not in bundle["text/html"]
    assert len(bundle["text/html"].encode()) < 200_000
    assert len(json.dumps(view.get_state()).encode()) < 60_000  # what a notebook keeps if it keeps widgets
    view.close()


def test_loading_the_extension_loads_no_widgets():
    code = (
        "from IPython.core.interactiveshell import InteractiveShell as S; shell = S.instance();"
        "shell.run_line_magic('load_ext', 'nbkv'); import sys;"
        "print([name for name in ('anywidget', 'ipywidgets', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


@pytest.fixture
def chat(session):
    return session.chat()


@pytest.fixture
def talk(session, chat):
    view = Conversation(session, chat)
    yield view
    view.close()


def turns(view):
    return [card["asked"] for card in view.cards]


def say(view, text, **given):
    tell(view, do="send", strategy="prefix", text=text, **{"max_new": 4} | given)
    until(lambda: not view._run.running)


def test_a_conversation_goes_on_in_its_box(session, chat, talk):
    assert talk.cards == []
    say(talk, "Who pays ?")
    say(talk, "And how much ?", max_new=3)
    assert turns(talk) == ["Who pays ?", "And how much ?"]
    assert [len(result.token_ids) for result in chat.results] == [4, 3]
    assert chat.results[1].tokens.reused > 0
    until(lambda: talk.state["saved"] and not talk.state["running"])
    card = talk.cards[1]
    assert "tokens reused" in card["html"]
    assert "nbkv-answer nbkv-markdown" in card["html"]
    assert "turn 2:" in card["html"]
    assert talk.state["saved"] in chat._repr_html_()
    assert talk.html() == chat._repr_html_()
    assert talk.text() == repr(chat)
    assert session.name in talk.about


@pytest.mark.parametrize(("turn", "left"), [(1, []), (2, ["one"]), (3, ["one", "two"])])
def test_an_earlier_turn_is_put_otherwise_and_those_after_it_go(chat, talk, turn, left):
    for text in ("one", "two", "three"):
        say(talk, text)
    say(talk, "other", turn=turn)
    assert turns(talk) == [*left, "other"]
    assert len(chat.results) == len(left) + 1


BAD = {
    "no such turn": ({"text": "hello", "turn": 9}, "no turn 9"),
    "nothing asked": ({"text": ""}, "the turn is empty"),
    "unknown strategy": ({"text": "hello", "strategy": "best"}, "unknown strategy 'best'"),
    "bad length": ({"text": "hello", "max_new": 0}, "max_new_tokens"),
}


@pytest.mark.parametrize(("given", "said"), BAD.values(), ids=BAD)
def test_what_cannot_be_asked_is_said_and_changes_nothing(chat, talk, given, said):
    say(talk, "one")
    say(talk, "two")
    before = chat.to_dict()
    tell(talk, **{"do": "send", "strategy": "prefix", "max_new": 4, "turn": 1} | given)
    until(lambda: not talk._run.running and said in talk.state["said"])
    assert chat.to_dict() == before
    assert turns(talk) == ["one", "two"]


def test_a_stopped_answer_leaves_the_conversation_as_it_was(session, chat, talk):
    say(talk, "one")
    say(talk, "two")
    resting = hold(session, 40)
    tell(talk, do="send", strategy="prefix", text="other", turn=1, max_new=2000)
    until(lambda: talk.state["html"] and talk.state["asked"] == "other")
    tell(talk, do="stop")
    until(lambda: not talk._run.running and talk.state["said"])
    session.events.drop(resting)
    assert "stopped" in talk.state["said"]
    assert turns(talk) == ["one", "two"]
    say(talk, "three")
    assert turns(talk) == ["one", "two", "three"]
    until(lambda: talk.state["said"] == "")


def test_what_cells_and_python_ask_is_seen_in_the_box(chat, talk):
    chat.send("asked in Python", max_new_tokens=2)
    talk.refresh()
    assert turns(talk) == ["asked in Python"]


def test_a_busy_session_refuses_a_turn_in_one_line(session, chat, talk):
    stream = session.stream("Who pays ?", max_new_tokens=9)
    next(stream)
    say(talk, "hello")
    assert "busy" in talk._run.said
    stream.close()
    assert turns(talk) == []


def test_what_is_typed_is_read_by_who_knows_chunks(session, chat):
    view = Conversation(session, chat, lambda text: [session.chunks["notes"], text])
    say(view, "Who pays ?")
    assert chat.results[0].chunks[0][0] == "notes"
    view.close()
