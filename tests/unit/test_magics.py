"""The magics in a real IPython shell, on the bundled model."""

import re
import signal
import warnings
from contextlib import contextmanager
from itertools import pairwise

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from nbkv.events import Token
from nbkv.magics.options import split_words
from nbkv.magics.stream_output import TerminalLive
from nbkv.models.sampling import Chooser
from nbkv.result import Chunk, Comparison, Result
from nbkv.session.verify import Report

MAGICS = {
    "kvload",
    "kvgen",
    "kvchunk",
    "kvcompare",
    "kvuse",
    "kvstore",
    "kvstats",
    "kvplan",
    "kvplot",
    "kvlist",
    "kvclose",
    "kvverify",
    "kvdash",
    "kvplay",
}


def new_shell(folder):
    config = Config({"HistoryManager": {"enabled": False}})
    return InteractiveShell(colors="nocolor", config=config, ipython_dir=str(folder))


@pytest.fixture(scope="module")
def shell(tmp_path_factory):
    made = new_shell(tmp_path_factory.mktemp("ipython"))
    run(made, "%load_ext nbkv")
    session = run(made, "%kvload tiny")
    config = session.adapter.model.generation_config
    config.suppress_tokens = [config.eos_token_id]  # answers are as long as a test asks for
    yield made
    run(made, "%unload_ext nbkv")


@pytest.fixture
def magics(shell):
    return shell.magics_manager.registry["KVMagics"]


@pytest.fixture
def session(magics):
    return magics.sessions.current


@pytest.fixture(autouse=True)
def fresh_notebook(request):
    """Give every test the variables and chunks it makes itself, and one session."""
    if "shell" not in request.fixturenames:
        yield
        return
    shell = request.getfixturevalue("shell")
    before = set(shell.user_ns)
    yield
    for name in set(shell.user_ns) - before:
        del shell.user_ns[name]
    sessions = shell.magics_manager.registry["KVMagics"].sessions
    for name in sessions.names[1:]:
        sessions.close(name)
    sessions.current.chunks.clear()
    sessions.current.use("prefix")


def run(shell, cell):
    """Run a cell and return its value; its error is raised here."""
    with capture_output() as captured:
        done = shell.run_cell(cell, store_history=False)
    run.stdout, run.stderr = captured.stdout, captured.stderr
    done.raise_error()
    return done.result


def refused(shell, cell):
    """Run a cell that must fail; return what the user reads, which is one line."""
    with capture_output() as captured:
        done = shell.run_cell(cell, store_history=False)
    assert not done.success
    lines = (captured.stdout + captured.stderr).strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("UsageError: ")
    return lines[0].removeprefix("UsageError: ")


def test_loading_the_extension_registers_every_magic(shell):
    magics = shell.magics_manager.magics
    assert set(magics["line"]) >= MAGICS
    assert set(magics["cell"]) >= {"kvgen", "kvchunk", "kvcompare"}


@pytest.mark.parametrize("name", sorted(MAGICS))
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_each_magic_explains_itself(shell, name, flag):
    assert run(shell, f"%{name} {flag}") is None
    assert run.stdout.startswith("usage: %")
    assert name in run.stdout
    assert "show this text" in run.stdout


def test_help_of_a_cell_magic_needs_no_cell(shell):
    run(shell, "%%kvgen -h")
    assert "--compare" in run.stdout
    run(shell, "%%kvcompare --help\n\n")
    assert "--repeat" in run.stdout


def test_a_prompt_gives_a_result_and_its_text_once(shell):
    result = run(shell, "%%kvgen -n 5\nwho are you ?")
    assert isinstance(result, Result)
    assert len(result.token_ids) == 5
    assert run.stdout.count(result.text) == 1
    assert "8 fresh" in run.stdout or "reused" in run.stdout
    assert shell.user_ns["_kv"] is result


def test_the_token_map_reads_like_the_prompt(shell):
    text = "Nina pays in krona. The lamp cost her 48."
    result = run(shell, f"%%kvgen -n 1 --raw\n{text}")
    assert "".join(result.prompt_pieces).endswith(text)
    assert "pays in krona. The lamp" in re.sub("<[^>]*>", "", result._repr_html_())


def test_shown_again_a_result_has_its_text(shell):
    result = run(shell, "%%kvgen -n 5\nwho are you ?")
    run(shell, "_kv")
    assert run.stdout.count(result.text) == 1


def test_a_prompt_is_chat_unless_raw(shell, session):
    chat = run(shell, "%%kvgen -n 1\nwho are you </s> ?")
    message = [{"role": "user", "content": "who are you </s> ?"}]
    assert chat.prompt_ids == session.generate(message, max_new_tokens=1).prompt_ids
    raw = run(shell, "%%kvgen -n 1 --raw\nwho are you </s> ?")
    assert list(raw.prompt_ids) == session.tokenizer("who are you </s> ?")["input_ids"]
    assert chat.prompt_ids != raw.prompt_ids


@pytest.mark.parametrize("line", ["--prefill who", "--prefill 'who are'", "--prefill hello --template-kwargs deep=[1]"])
def test_an_answer_may_begin_with_given_words(shell, session, line):
    prefill = re.search(r"--prefill ('(.*)'|(\w+))", line)
    text = prefill[2] or prefill[3]
    for cell in ("%%kvgen", "%%kvcompare full"):
        run(shell, f"{cell} -n 2 {line} --out got\nwho are you ?")
        found = shell.user_ns["got"]
        found = found if cell == "%%kvgen" else found.results[0]
        messages = [{"role": "user", "content": "who are you ?"}, {"role": "assistant", "content": text}]
        assert found.prompt_ids == session.generate(messages, continue_final_message=True, max_new_tokens=1).prompt_ids
    assert "chat template" in refused(shell, f"%%kvgen --raw {line}\nwho are you ?")


def test_the_chat_template_has_variables(shell, session, monkeypatch):
    template = session.tokenizer.chat_template
    monkeypatch.setattr(session.tokenizer, "chat_template", "{% if deep %}who who{% endif %} " + template)
    shell.user_ns["REALLY"] = [1]
    plain = run(shell, "%%kvgen -n 1\nhello").prompt_ids
    deep = session.generate([{"role": "user", "content": "hello"}], template_kwargs={"deep": 1}, max_new_tokens=1)
    for word in ("deep=True", "deep=true", "deep=REALLY", "'deep=[1, 2]'"):
        assert run(shell, f"%%kvgen -n 1 --template-kwargs {word}\nhello").prompt_ids == deep.prompt_ids != plain
    assert run(shell, "%%kvgen -n 1 --template-kwargs deep=\nhello").prompt_ids == plain
    assert "NAME=VALUE" in refused(shell, "%%kvgen --template-kwargs deep\nhello")
    assert "nbkv sees to that" in refused(shell, "%%kvgen --template-kwargs tokenize=True\nhello")


def test_without_a_template_prompts_are_raw_and_chat_is_refused(shell, session, monkeypatch):
    monkeypatch.setattr(type(session), "has_template", False)
    raw = run(shell, "%%kvgen -n 1\nwho are you ?")
    assert list(raw.prompt_ids) == session.tokenizer("who are you ?")["input_ids"]
    assert "no chat template" in refused(shell, "%%kvgen --chat\nwho are you ?")


def test_text_variables_tokenise_as_if_they_had_been_typed(shell):
    shell.user_ns["who"] = "re you"
    filled = run(shell, "%%kvgen -n 1 --raw\nwho a{{ who }} ?")
    typed = run(shell, "%%kvgen -n 1 --raw\nwho are you ?")
    assert filled.prompt_ids == typed.prompt_ids


def test_ipython_expands_nothing(shell, session):
    shell.user_ns["x"] = "expanded"
    result = run(shell, "%%kvgen -n 1 --raw\n{x} $x ${x}")
    assert list(result.prompt_ids) == session.tokenizer("{x} $x ${x}")["input_ids"]
    assert "'$x'" in refused(shell, "%%kvgen --out $x\nhello")


def test_a_chunk_is_encoded_once_and_reused(shell, session):
    chunk = run(shell, "%%kvchunk notes\nMarta has 3 apples .\nJonas has 4 .")
    assert isinstance(chunk, Chunk)
    assert chunk.text == "Marta has 3 apples .\nJonas has 4 ."
    assert session.chunks["notes"] == chunk
    result = run(shell, "%%kvgen -n 1 --raw\n{{ notes }} who ?")
    assert result.tokens.reused == len(chunk) + 1  # and the BOS it was encoded behind
    assert result.chunks == (("notes", 1, 1 + len(chunk)),)


def test_a_result_is_reused_as_its_answer(shell):
    first = run(shell, "%%kvgen -n 4 --raw --out first\nwho are you ?")
    second = run(shell, "%%kvgen -n 1 --raw\n{{ first }} and")
    assert second.prompt_ids[1 : 1 + len(first.token_ids)] == first.token_ids


def test_out_keeps_the_result_under_a_name(shell):
    result = run(shell, "%%kvgen -n 1 --out mine\nhello")
    assert shell.user_ns["mine"] is result


def test_a_strategy_is_for_one_cell_only(shell, session):
    assert run(shell, "%%kvgen -n 1 -s full\nhello").strategy == "full"
    assert run(shell, "%%kvgen -n 1\nhello").strategy == "prefix"
    run(shell, "%kvuse full")
    assert session.strategy.name == "full"
    assert run(shell, "%%kvgen -n 1\nhello").tokens.reused == 0


def test_options_take_values_from_the_notebook(shell):
    shell.user_ns.update(how="full", room=3, rows=[1])
    result = run(shell, "%%kvgen -s {{ how }} -n {{room}} --raw\nhello")
    assert (result.strategy, len(result.token_ids)) == ("full", 3)
    assert "unknown name {{ rows }}" in refused(shell, "%%kvgen -n {{ rows }}\nhello")


def test_defaults_can_be_configured(shell, magics):
    try:
        run(shell, "%config KVMagics.max_new = 3")
        assert len(run(shell, "%%kvgen\nhello").token_ids) == 3
    finally:
        magics.max_new = 64


def test_temperature_samples_with_a_fixed_seed(shell):
    first, second = (run(shell, "%%kvgen -n 8 -t 1.5\nhello") for _ in range(2))
    assert first.token_ids == second.token_ids
    assert first.token_ids != run(shell, "%%kvgen -n 8\nhello").token_ids


@pytest.mark.parametrize("cell", ["%%kvcompare full, prefix -n 2 --repeat 1\nhello", "%%kvgen --compare -n 2\nhello"])
def test_comparisons(shell, cell):
    table = run(shell, cell)
    assert isinstance(table, Comparison)
    assert [row["strategy"] for row in table.rows] == ["full", "prefix"]
    assert shell.user_ns["_kv"] is table
    assert "speed-up" in run.stdout


def test_compare_takes_names_with_options_and_spaces(shell, session, monkeypatch):
    asked = []
    monkeypatch.setattr(session, "compare", lambda prompt, names, **_: asked.append(names))
    run(shell, "%%kvcompare full, a(budget=0.2, b=1) prefix\nhello")
    run(shell, "%%kvgen --compare full,a(x=1)\nhello")
    run(shell, "%%kvgen --compare -s full\nhello")
    assert asked == ["full, a(budget=0.2, b=1) prefix", "full,a(x=1)", "full"]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("%%kvgen\n{{ nothing }}", "unknown name {{ nothing }}"),
        ("%%kvgen\n \n", "holds no prompt"),
        ("%%kvgen -n many\nhello", "invalid int value: 'many'"),
        ("%%kvgen -n 0\nhello", "max_new_tokens"),
        ("%%kvgen -t -1\nhello", "temperature"),
        ("%%kvgen -s nothing\nhello", "unknown strategy 'nothing' (known: "),
        ("%%kvgen -s fulll\nhello", "did you mean 'full'?"),
        ("%%kvgen -s prefix(x=1)\nhello", "x"),
        ("%%kvgen --chat --raw\nhello", "not allowed with"),
        ("%%kvgen --unmask static\nhello", "tiny decodes token by token, it masks nothing (leave it out)"),
        ("%%kvgen --unmask dynamic(2)\nhello", "threshold is a probability between 0 and 1"),
        ("%kvload tiny --block-size 4", "tiny is causal and decodes token by token"),
        ("%%kvgen --wrong\nhello", "unrecognized arguments: --wrong (%%kvgen -h lists the options)"),
        ("%%kvgen --out 1x\nhello", "'1x'"),
        ("%%kvgen -s 'full\nhello", "unclosed quote"),
        ("%%kvgen --compare -t 1\nhello", "greedy"),
        ("%kvgen hello", "text stands in the cell"),
        ("%%kvchunk\nhello", "NAME"),
        ("%%kvchunk my-notes\nhello", "'my-notes'"),
        ("%%kvchunk notes\n\n", "chunk"),
        ("%%kvcompare\nhello", "required"),
        ("%%kvcompare nothing\nhello", "unknown strategy 'nothing'"),
        ("%kvuse nothing", "unknown strategy 'nothing'"),
        ("%kvuse", "--session NAME"),
        ("%kvuse --session nothing", "unknown session 'nothing'"),
        ("%kvload", "required: model"),
        ("%kvload ./no/such/folder", "./no/such/folder"),
        ("%kvload tiny --device warp", "unknown device 'warp'"),
        ("%kvload tiny --as 1x", "'1x'"),
        ("%kvstore nothing", "unknown store 'nothing'"),
        ("%kvclose nothing", "unknown session 'nothing'"),
        ("%kvstats now", "unrecognized arguments: now"),
        ("%kvverify nothing", "unknown strategy 'nothing'"),
        ("%kvverify prefix(x=1)", "x"),
        ("%kvverify --wrong", "unrecognized arguments: --wrong (%kvverify -h lists the options)"),
    ],
)
def test_mistakes_are_one_clear_line_and_the_session_goes_on(shell, magics, cell, told):
    assert told in refused(shell, cell)
    assert len(magics.sessions.names) == 1
    assert run(shell, "%%kvgen -n 1\nhello").finish_reason == "length"


def test_a_variable_that_hides_a_chunk_is_refused(shell):
    run(shell, "%%kvchunk notes\nMarta has 3 apples .")
    shell.user_ns["notes"] = "other"
    assert "both a variable" in refused(shell, "%%kvgen\n{{ notes }}")


@contextmanager
def heard_by(session, listener):
    session.events.add(listener)
    try:
        yield
    finally:
        session.events.drop(listener)


def interrupt_at(session, number):
    """Press Ctrl-C while token ``number`` is on its way."""
    seen = []

    def listener(event):
        if isinstance(event, Token):
            seen.append(event)
            if len(seen) == number:
                signal.raise_signal(signal.SIGINT)

    return heard_by(session, listener)


def test_an_interrupt_keeps_the_partial_result_and_stops_the_queue(shell, session):
    whole = run(shell, "%%kvgen -n 12\nhello")
    with interrupt_at(session, 4), capture_output() as captured:
        done = shell.run_cell("%%kvgen -n 12\nhello", store_history=False)
    assert isinstance(done.error_in_exec, KeyboardInterrupt)
    partial = shell.user_ns["_kv"]
    assert partial.finish_reason == "interrupted"
    assert 1 <= len(partial.token_ids) < 12
    assert partial.token_ids == whole.token_ids[: len(partial.token_ids)]
    assert "interrupted]" in captured.stdout
    assert run(shell, "%%kvgen -n 12\nhello").token_ids == whole.token_ids


def test_an_interrupt_while_a_piece_is_drawn_keeps_the_partial_result(shell, monkeypatch):
    add, drawn = TerminalLive.add, []

    def interrupted(self, piece):
        drawn.append(piece)
        if len(drawn) == 3:  # nbkv's own handler is off between two pieces
            signal.raise_signal(signal.SIGINT)
        add(self, piece)

    monkeypatch.setattr(TerminalLive, "add", interrupted)
    with capture_output() as captured:
        done = shell.run_cell("%%kvgen -n 12\nhello", store_history=False)
    assert isinstance(done.error_in_exec, KeyboardInterrupt)
    assert shell.user_ns["_kv"].finish_reason == "interrupted"
    assert len(shell.user_ns["_kv"].token_ids) == 3
    assert "interrupted]" in captured.stdout


def test_an_interrupted_comparison_leaves_the_session_usable(shell, monkeypatch):
    before = run(shell, "%%kvgen -n 3\nhello")
    choose, chosen = Chooser.choose, []

    def interrupted(self, logits):  # a comparison is no request and tells no events
        chosen.append(logits)
        if len(chosen) == 2:
            signal.raise_signal(signal.SIGINT)
        return choose(self, logits)

    monkeypatch.setattr(Chooser, "choose", interrupted)
    with capture_output():
        done = shell.run_cell("%%kvcompare prefix -n 9\nhello", store_history=False)
    assert isinstance(done.error_in_exec, KeyboardInterrupt)
    assert isinstance(shell.user_ns["_kv"], Result)
    assert run(shell, "%%kvgen -n 3\nhello").token_ids == before.token_ids


def test_stop_from_elsewhere_returns_what_there_is(shell, session):
    stop = lambda event: session.stop() if isinstance(event, Token) else None  # noqa: E731
    with heard_by(session, stop):
        assert run(shell, "%%kvgen -n 12\nhello").finish_reason == "interrupted"


class Recorder(DisplayPublisher):
    """Keeps what a front end would be told."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.told = []

    def publish(self, data, *, update=False, **_):
        self.told.append(("update" if update else "display", data))

    def clear_output(self, wait=False):
        self.told.append(("clear", wait))


@pytest.fixture
def front_end(shell, monkeypatch):
    """Let the shell believe it has a kernel with a front end; return what that is told."""
    recorder = Recorder()
    monkeypatch.setattr(shell, "kernel", object(), raising=False)
    monkeypatch.setattr(shell, "display_pub", recorder)
    monkeypatch.setattr("nbkv.magics.stream_output.INTERVAL", 0.0)
    monkeypatch.setattr("IPython.core.interactiveshell.InteractiveShell._instance", shell)
    return recorder.told


def quiet(shell, cell):
    """Run a cell without capturing its displays."""
    return shell.run_cell(cell, store_history=False)


def test_a_notebook_streams_into_one_output_that_makes_way_for_the_result(shell, front_end, monkeypatch):
    monkeypatch.setattr(type(shell.displayhook), "__call__", lambda *_: None)
    quiet(shell, "%%kvgen -n 6\nhello")
    kinds = [kind for kind, _ in front_end]
    assert kinds[0] == "display"
    assert set(kinds[1:-1]) == {"update"}
    assert front_end[-1] == ("clear", True)
    texts = [data["text/plain"] for kind, data in front_end if kind != "clear"]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts))
    assert texts[-1].strip() == shell.user_ns["_kv"].text.strip()


def test_a_notebook_is_not_flooded(shell, front_end, monkeypatch):
    monkeypatch.setattr(type(shell.displayhook), "__call__", lambda *_: None)
    monkeypatch.setattr("nbkv.magics.stream_output.INTERVAL", 60.0)
    quiet(shell, "%%kvgen -n 12\nhello")
    assert [kind for kind, _ in front_end] == ["display", "clear"]


def test_streamed_text_is_escaped(shell, front_end):
    from nbkv.magics.stream_output import NotebookLive

    with NotebookLive() as view:
        view.add("<b>&")
    assert "&lt;b&gt;&amp;" in front_end[0][1]["text/html"]


def test_an_interrupt_in_a_notebook_shows_the_partial_result(shell, session, front_end, capsys):
    with interrupt_at(session, 3):
        quiet(shell, "%%kvgen -n 12\nhello")
    capsys.readouterr()
    kind, data = front_end[-1]
    assert kind == "update"
    assert data["text/plain"] == repr(shell.user_ns["_kv"])
    assert "nbkv-result" in data["text/html"]


def test_warnings_survive_the_clearing_of_the_output(shell, front_end):
    from nbkv.magics.stream_output import NotebookLive

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with NotebookLive() as view:
            view.add("text")
            warnings.warn("damaged", stacklevel=1)
            assert not caught
        assert [str(one.message) for one in caught] == ["damaged"]
    assert front_end[-1] == ("clear", True)


def test_sessions_are_opened_switched_and_closed_by_name(shell, magics, session):
    second = run(shell, "%kvload tiny -s full --as second --store memory?device=1GiB")
    assert magics.sessions.current is second
    assert second.strategy.name == "full"
    assert not session.closed
    first = magics.sessions.names[0]
    assert run(shell, f"%kvuse --session {first}") is session
    assert run(shell, "%kvuse --session second prefix") is second
    assert second.strategy.name == "prefix"
    run(shell, "%kvclose")
    assert second.closed
    assert magics.sessions.current is session
    assert first in run.stdout


def test_loading_without_a_name_closes_the_former_session_only_after_success(shell, magics, session):
    run(shell, "%kvload tiny --as second")
    second = magics.sessions.current
    refused(shell, "%kvload ./no/such/folder")
    assert magics.sessions.current is second
    assert not second.closed
    third = run(shell, "%kvload tiny")
    assert magics.sessions.current is third
    assert second.closed
    assert not session.closed


def test_the_same_name_replaces_its_session(shell, magics):
    second, third = (run(shell, "%kvload tiny --as second") for _ in range(2))
    assert second.closed
    assert magics.sessions.current is third
    assert magics.sessions.names[1:] == ["second"]


def test_without_a_session_every_magic_says_how_to_get_one(tmp_path):
    shell = new_shell(tmp_path)
    run(shell, "%load_ext nbkv")
    for cell in (
        "%%kvgen\nx",
        "%%kvchunk n\nx",
        "%%kvcompare full\nx",
        "%kvuse full",
        "%kvstats",
        "%kvverify",
        "%kvclose",
    ):
        assert "%kvload" in refused(shell, cell)
    assert "Strategies" in repr(run(shell, "%kvlist"))
    run(shell, "%unload_ext nbkv")


def test_the_store_can_be_looked_at_cleared_and_replaced(shell, session):
    run(shell, "%%kvchunk notes\nMarta has 3 apples .")
    tiers = run(shell, "%kvstore")
    assert tiers["entries"].sum() > 0
    assert len(run(shell, "%kvstore ls")) > 0
    assert run(shell, "%kvstore clear")["entries"].sum() == 0
    former = session.store
    run(shell, "%kvstore memory?device=64MiB")
    assert session.store is not former
    assert session.store.tiers["limit"].tolist() == [64 * 2**20]


def test_stats_list_and_plot(shell, session):
    run(shell, "%%kvgen -n 2\nhello")
    assert run(shell, "%kvstats").to_dict()["requests"] == len(session.history())
    shown = run(shell, "%kvlist")
    for part in ("prefix", "tiny", "(current)", "smollm2"):
        assert part in repr(shown)
        assert part in shown._repr_html_()
    history = run(shell, "%kvplot")._repr_mimebundle_()
    assert "hit rate" in history["text/plain"]
    run(shell, "%%kvcompare prefix -n 2 --repeat 1\nhello")
    comparison = run(shell, "%kvplot")._repr_mimebundle_()
    assert comparison["text/plain"] == repr(shell.user_ns["_kv"])
    assert "application/vnd.plotly.v1+json" in comparison


def test_a_self_check_is_a_report(shell):
    report = run(shell, "%kvverify")
    assert isinstance(report, Report)
    assert report.ok
    assert report.strategy == "prefix"
    assert "prefix on tiny: passed" in run.stdout
    assert "relocation" in report._repr_html_()


@pytest.mark.parametrize("line", ["full cacheblend(budget=0.2, check_layers=(0, 1))", "full, cacheblend(0.3)"])
def test_several_strategies_are_checked_in_one_report(shell, line):
    report = run(shell, f"%kvverify {line}")
    assert report.ok
    assert [spec.split("(")[0] for spec in report.strategy.split(", ")[:2]] == ["full", "cacheblend"]


def test_a_plot_of_nothing_is_refused(shell):
    run(shell, "%kvload tiny --as second")
    assert "nothing to plot" in refused(shell, "%kvplot")


def complete(shell, text):
    with provisionalcompleter():
        found = list(shell.Completer.completions(text, len(text)))
    return {text[: one.start] + one.text for one in found}


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("%kvl", "%kvload"),
        ("%kvload ti", "%kvload tiny"),
        ("%kvload smo", "%kvload smollm2"),
        ("%kvload tiny --st", "%kvload tiny --store"),
        ("%kvload tiny -s pre", "%kvload tiny -s prefix"),
        ("%%kvgen --comp", "%%kvgen --compare"),
        ("%%kvgen --raw --strategy fu", "%%kvgen --raw --strategy full"),
        ("%%kvgen --compare full,pre", "%%kvgen --compare full,prefix"),
        ("%%kvcompare full,pre", "%%kvcompare full,prefix"),
        ("%kvuse pre", "%kvuse prefix"),
        ("%kvverify pre", "%kvverify prefix"),
        ("%kvverify full,pre", "%kvverify full,prefix"),
        ("%kvverify full pre", "%kvverify full prefix"),
        ("%kvuse --session ti", "%kvuse --session {session}"),
        ("%kvclose ti", "%kvclose {session}"),
        ("%kvstore cl", "%kvstore clear"),
        ("%%kvgen -s full\nhello {{ no", "%%kvgen -s full\nhello {{ notes"),
        ("%%kvgen\nhello {{ que", "%%kvgen\nhello {{ question"),
    ],
)
def test_completion(shell, magics, typed, completed):
    run(shell, "%%kvchunk notes\nMarta has 3 apples .")
    shell.user_ns["question"] = "who ?"
    wanted = completed.replace("{session}", magics.sessions.current_name)
    found = complete(shell, typed)
    assert wanted in found
    if not typed.startswith("%kvl"):  # IPython's own completion of magics and of folders
        assert found == {wanted}


def test_completion_keeps_out_of_other_code(shell):
    assert not any("prefix" in one for one in complete(shell, "pref"))
    assert not any("--compare" in one for one in complete(shell, "%timeit --comp"))


def test_unloading_leaves_the_shell_as_it_was(tmp_path):
    shell = new_shell(tmp_path)
    before = _what_can_be_added(shell)
    run(shell, "%load_ext nbkv")
    run(shell, "%reload_ext nbkv")
    assert _what_can_be_added(shell) != before
    run(shell, "%kvload tiny")
    session = shell.magics_manager.registry["KVMagics"].sessions.current
    run(shell, "%unload_ext nbkv")
    assert _what_can_be_added(shell) == before
    assert session.closed


def _what_can_be_added(shell):
    return (
        {kind: sorted(names) for kind, names in shell.magics_manager.magics.items()},
        "KVMagics" in shell.magics_manager.registry,
        [one for one in shell.configurables if type(one).__name__ == "KVMagics"],
        list(shell.Completer.custom_matchers),
        list(shell.input_transformers_cleanup),
        dict(shell.display_formatter.formatters["text/plain"].deferred_printers),
        dict(shell.display_formatter.formatters["text/plain"].type_printers),
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tiny -s prefix", ["tiny", "-s", "prefix"]),
        ("-s a(b=1, c='x y') full", ["-s", "a(b=1, c='x y')", "full"]),
        ("'a b' \"c d\"", ["a b", "c d"]),
        ("it's fine", ["it's", "fine"]),
        ("  ", []),
    ],
)
def test_words_of_a_line(line, words):
    assert split_words(line) == words


def test_kvplan_shows_what_older_tokens_cost(shell, monkeypatch):
    from nbkv.families.residual import planner

    monkeypatch.setattr(planner, "_pure", lambda adapter: ["ids", "layers", "host"])
    plan = run(shell, "%kvplan -n 16")
    assert plan.tokens == 16
    assert plan.pick in {"ids", "layers", "first(4)"}
