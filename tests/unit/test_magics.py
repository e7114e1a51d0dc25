"""The magics in a real IPython shell, on the bundled model."""

import re
import shutil
import signal
from contextlib import contextmanager
from itertools import pairwise

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from redis_server import RedisServer
from traitlets.config import Config

from nbkv.events import Advanced, Token
from nbkv.magics.options import split_words
from nbkv.magics.stream_output import TerminalLive
from nbkv.models.sampling import Chooser
from nbkv.result import Chunk, Comparison, Result
from nbkv.session.verify import Report

VIEW = "application/vnd.jupyter.widget-view+json"
MAGICS = {
    "kvload",
    "kvgen",
    "kvchat",
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
    run(shell, "%%kvcompare full prefix\nhello")
    run(shell, "%%kvcompare full , prefix,\nhello")
    run(shell, "%%kvgen --compare full,a(x=1)\nhello")
    run(shell, "%%kvgen --compare -s full\nhello")
    assert asked == ["full,a(budget=0.2, b=1),prefix", "full,prefix", "full,prefix", "full,a(x=1)", "full"]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("%%kvgen\n{{ nothing }}", "unknown name {{ nothing }}"),
        ("%%kvgen\n \n", "holds no prompt (write it below the first line, in the same cell)"),
        ("%%kvgen", "holds no prompt (write it below"),
        ("%%kvgen -n 3 --raw", "holds no prompt (write it below"),
        ("%%kvcompare full, prefix", "holds no prompt (write it below"),
        ("%%kvchunk notes", "chunk"),
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
    assert shell.user_ns["_kv"].stopped == "stopped after 0 of 9 steps"
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


def test_a_notebook_streams_into_one_output_that_becomes_the_result(shell, front_end):
    quiet(shell, "%%kvgen -n 6\nhello")
    kinds = [kind for kind, _ in front_end]
    assert kinds[0] == "display"
    assert set(kinds[1:]) == {"update"}
    texts = [data["text/plain"] for _, data in front_end]
    assert all(later.startswith(earlier) for earlier, later in pairwise(texts[:-1]))
    assert texts[-1] == repr(shell.user_ns["_kv"])
    assert "nbkv-result" in front_end[-1][1]["text/html"]


def test_a_notebook_is_not_flooded(shell, front_end, monkeypatch):
    monkeypatch.setattr("nbkv.magics.stream_output.INTERVAL", 60.0)
    quiet(shell, "%%kvgen -n 12\nhello")
    assert [kind for kind, _ in front_end] == ["display", "update"]


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


OTHER_OUTPUT = {
    "a table": "from IPython.display import display, HTML\ndisplay(HTML('<table></table>'))\n",
    "a print": "print('seen')\n",
    "earlier turns": "get_ipython().run_cell_magic('kvgen', '-n 2', 'one')\n",
    "a comparison": "get_ipython().run_cell_magic('kvcompare', 'full -n 2 --repeat 1', 'one')\n",
}


@pytest.mark.parametrize("before", OTHER_OUTPUT.values(), ids=OTHER_OUTPUT)
@pytest.mark.parametrize(
    "last", ["'kvgen', '-n 2'", "'kvcompare', 'full -n 2 --repeat 1'", "'kvgen', '--compare -n 2'"]
)
def test_what_the_cell_has_shown_before_survives(shell, front_end, before, last):
    quiet(shell, f"{before}get_ipython().run_cell_magic({last}, 'two')")
    kinds = [kind for kind, _ in front_end]
    assert "clear" not in kinds
    assert kinds.count("display") == (1 if "print" in before else 2)
    # the last output alone is drawn anew once it has begun
    begun = max(at for at, kind in enumerate(kinds) if kind == "display")
    assert set(kinds[begun + 1 :]) == {"update"}


LONG = {  # and what their steps begin with
    "%%kvcompare full,prefix -n 2 --repeat 2\nhello": "compare: ",
    "%kvverify full": "verify: ",
    "%kvplan -n 8": "plan: ",
}


@pytest.fixture
def few_forms(monkeypatch):
    from nbkv.families.residual import planner
    from nbkv.families.residual.bandwidth import Bandwidths

    given = Bandwidths(memory=1e10, host=5e9, disk=1e9, gemm=1e11, rows=64)
    monkeypatch.setattr(planner, "rates", lambda adapter, rows: given)
    monkeypatch.setattr(planner, "_pure", lambda adapter: ["ids", "layers", "host"])
    monkeypatch.setattr("nbkv.magics.progress.INTERVAL", 0.0)


@pytest.mark.parametrize("cell", LONG)
def test_long_work_shows_its_steps_and_then_what_it_found(shell, front_end, few_forms, cell):
    quiet(shell, cell)
    kinds = [kind for kind, _ in front_end]
    assert kinds[0] == "display"
    assert set(kinds[1:]) == {"update"}
    *steps, last = (data["text/plain"] for _, data in front_end)
    assert len(steps) >= 4
    assert all(step.startswith(LONG[cell]) and " steps, " in step for step in steps)
    assert not last.startswith(LONG[cell])
    assert "<table" in front_end[-2][1]["text/html"]


@pytest.mark.parametrize("cell", LONG)
def test_an_interrupt_keeps_what_was_found_and_is_one_quiet_line(shell, front_end, few_forms, cell, capsys):
    def listener(event):
        if isinstance(event, Advanced) and event.done == 2 and not event.over:
            signal.raise_signal(signal.SIGINT)

    with heard_by(shell.magics_manager.registry["KVMagics"].sessions.current, listener):
        done = quiet(shell, cell)
    assert isinstance(done.error_in_exec, KeyboardInterrupt)
    told = capsys.readouterr()
    (line,) = [line for line in (told.out + told.err).splitlines() if line.strip()]
    assert re.fullmatch(r"KeyboardInterrupt: stopped after 2 of \d+ steps; _kv has what there was", line)
    kept = shell.user_ns["_kv"]
    assert kept.stopped
    assert front_end[-1][1]["text/plain"] == repr(kept)


@pytest.mark.parametrize("cell", ["%kvload tiny", "%kvstore clear", "%%kvchunk notes\nhello"])
def test_an_interrupt_of_any_magic_is_one_quiet_line(shell, session, monkeypatch, cell, capsys):
    def pressed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("nbkv.load", pressed, raising=False)
    monkeypatch.setattr(type(session.store), "clear", pressed)
    monkeypatch.setattr(type(session), "chunk", pressed)
    done = quiet(shell, cell)
    assert isinstance(done.error_in_exec, KeyboardInterrupt)
    told = capsys.readouterr()
    (line,) = [line for line in (told.out + told.err).splitlines() if line.strip()]
    assert re.fullmatch(r"KeyboardInterrupt: %%?kv\w+ was interrupted", line)


def test_python_in_a_notebook_shows_long_work_too(shell, front_end, monkeypatch):
    cell = "get_ipython().magics_manager.registry['KVMagics'].sessions.current.compare('one', 'full', repeat=1);"
    monkeypatch.setattr("nbkv.magics.progress.DELAY", 1e9)
    quiet(shell, cell)
    assert not front_end  # what is over soon is not shown
    monkeypatch.setattr("nbkv.magics.progress.DELAY", 0.0)
    quiet(shell, cell)
    assert front_end[0][0] == "display"
    assert re.fullmatch(r"compare: done in .*s", front_end[-1][1]["text/plain"])


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


@pytest.mark.parametrize(
    ("typed", "among", "none_of"),
    [
        ("%kvload tiny ", {"--strategy", "--store"}, {"abs", "tiny"}),
        ("%kvstats ", {"--help"}, {"abs"}),
        ("%%kvgen -n ", {"64"}, {"abs"}),
        ("%%kvgen -s bl", {"blend", "blockdiff"}, {"blob"}),
        ("%%kvgen --out a", set(), {"abs", "all"}),
        ("%kvload tiny --dtype ", {"bfloat16"}, {"abs"}),
        ("%kvload tiny --as pr", set(), {"print", "prefix"}),
        ("%kvuse prefix ", {"--session"}, {"abs", "prefix"}),
        ("%kvuse zzz", set(), {"zip"}),
        ("%kvverify full ", {"prefix"}, {"abs"}),
        ("%%kvgen\nhello {{ zz", set(), {"zip"}),
    ],
)
def test_completion_offers_what_fits_and_nothing_else(shell, typed, among, none_of):
    with provisionalcompleter():
        found = {one.text for one in shell.Completer.completions(typed, len(typed))}
    assert among <= found
    assert not none_of & found
    assert len(found) <= 30
    assert among or not found


@pytest.mark.parametrize("name", sorted(MAGICS))
def test_each_help_has_an_example_that_can_be_typed(shell, name):
    from nbkv.magics.examples import EXAMPLES

    run(shell, f"%{name} -h")
    *_, shown = run.stdout.partition("example:\n")
    lines = [line.removeprefix("  ") for line in shown.rstrip().splitlines()]
    assert "\n".join(lines) == EXAMPLES[name]
    first, *cell = lines
    magic = getattr(shell.magics_manager.registry["KVMagics"], name)
    magic.parser.parse_args(split_words(first.lstrip("%").removeprefix(name)))
    assert bool(cell) == first.startswith("%%")


@pytest.mark.parametrize("function", ["generate", "stream", "compare", "chat().send"])
@pytest.mark.parametrize("option", ["max_new_tokens", "temperature", "top_k"])
def test_the_options_of_sampling_are_completed(shell, session, function, option):
    shell.user_ns["session"] = session
    shell.user_ns["ask"] = session.chat().send if "chat" in function else getattr(session, function)
    typed = f"ask('hello', {option[:4]}"
    with provisionalcompleter():
        assert f"{option}=" in {one.text for one in shell.Completer.completions(typed, len(typed))}


def test_sizes_in_a_stores_table_are_read_and_stay_numbers(shell, session):
    run(shell, "%kvstore memory?device=5800000000")
    table = run(shell, "%kvstore")
    assert "5.80 GB" in repr(table)
    assert "5.80 GB" in table._repr_html_()
    assert table["limit"].tolist() == [5_800_000_000]
    run(shell, "%%kvchunk notes\nMarta has 3 apples .")
    listed = run(shell, "%kvstore ls")
    assert re.search(r"\d kB|\d MB", repr(listed))
    assert listed["bytes"].dtype.kind == "i"
    assert not any(digits in repr(table) for digits in ("5800000000", "5,800,000,000"))


STORES = {
    "disk:{}": ("disk", ""),
    "memory+disk:{}": ("disk", ""),
    "memory?device=64MiB+disk:{}?limit=3GiB&policy=cost&ttl=7d": ("disk", ""),
    "memory+disk:{}?form=int8&policy=lfu": ("disk", "int8"),
    "memory+disk:{}?form=fp8&policy=rank&writes=back": ("disk", "fp8"),
    "memory+disk:{}/a+disk:{}/b": ("disk", ""),
    "memory+file://{}": ("file", ""),
    "memory+memory://{}": ("memory://", ""),
    "memory+redis": ("redis", ""),
}


@pytest.mark.parametrize("spec", STORES)
def test_every_kind_of_store_is_opened_shown_and_found_again(shell, session, tmp_path, spec):
    (name, form), place = STORES[spec], spec.replace("{}", f"{tmp_path}/kv")
    server = None
    if spec == "memory+redis":
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed")
        server = RedisServer(tmp_path).start()
        place = f"memory+{server.store}&limit=1GiB"
    try:
        opened = run(shell, f"%kvstore {place}")
        assert opened["tier"].tolist()[0] == "memory"
        assert opened["tier"].tolist()[1].startswith(name)
        run(shell, "%%kvgen -n 2\n" + "Marta has 3 apples . " * 20)
        session.store.flush()
        table = run(shell, "%kvstore")
        below = table.iloc[1:]
        assert (below["entries"] == 1).all()
        assert (below["form"] == form).all()
        assert (below["error"] > 0).all() == bool(form)
        for shown in (repr(table), table._repr_html_()):
            assert re.search(r"\d kB|\d MB", shown)
            assert not re.search(r"\d{7}", shown), "bytes that nobody reads"
            assert "nan" not in shown
            assert re.search(r"\d %", shown) or not form
        cleared = run(shell, "%kvstore clear")
        assert (cleared["entries"].iloc[0], cleared["entries"].iloc[1:].min()) == (0, 1)
        assert len(run(shell, "%kvstore ls")) == 0
        former = session.store
        run(shell, f"%kvstore {place}")
        assert session.store is not former
        again = run(shell, "%%kvgen -n 2\n" + "Marta has 3 apples . " * 20)
        assert again.tokens.reused == again.tokens.prompt - 1
        assert any(" of KV from " in note and form in note for note in again.notes)
    finally:
        run(shell, "%kvstore memory")
        if server is not None:
            server.kill()


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("disk:", "unknown store"),
        ("memory+disk:x?form=int3", "accepted: int8, fp8, kvzip"),
        ("memory+disk:x?policy=best", "accepted: lru, lfu, cost, rank"),
        ("memory+disk:x?limit=much", "not a size"),
        ("memory+redis://:secret@127.0.0.1:1", "cannot be opened"),
        ("disk:/proc/none/here", "cannot be opened"),
        ("memory+disk:x?form=int8+disk:y", "one form"),
    ],
)
def test_a_store_that_is_none_is_one_line_and_the_old_one_stays(shell, session, spec, told):
    former = session.store
    line = refused(shell, f"%kvstore {spec}")
    assert told in line
    assert "secret" not in line
    assert session.store is former


def test_a_replaced_chunk_is_said(shell):
    run(shell, "%%kvchunk notes\nMarta has 3 apples .")
    assert "replaces" not in run.stdout
    chunk = run(shell, "%%kvchunk notes\nJonas has 4 .")
    for shown in (run.stdout, repr(chunk), chunk._repr_html_().replace("&#x27;", "'")):
        assert "replaces another chunk named 'notes'" in shown


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("cacheblend", "cacheblend(budget=0.15)"),
        ("cacheblend(budget=0.2)", "cacheblend(budget=0.2)"),
        ("cacheblend(check_layers=(0,))", "cacheblend(budget=0.15, check_layers=(0,))"),
        ("prefix", "prefix"),
    ],
)
def test_a_report_says_at_which_budget(spec, told):
    from nbkv.session.verify import with_amount
    from nbkv.strategy import parse

    assert with_amount(parse(spec)) == told
    assert parse(told) == parse(spec)


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
        dict(shell.display_formatter.ipython_display_formatter.deferred_printers),
        dict(shell.display_formatter.ipython_display_formatter.type_printers),
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


def test_a_chat_goes_on_and_a_turn_can_be_edited(shell, session):
    chat = run(shell, "%%kvchat -n 3\nMarta has 3 apples . Jonas has 4 .")
    assert run.stdout.count("turn") <= 1
    run(shell, "%%kvchat -n 3\nwho ?")
    assert "reused" in run.stdout
    assert run(shell, "%kvchat") is chat
    assert [turn["asked"] for turn in chat.to_dict()["turns"]] == ["Marta has 3 apples . Jonas has 4 .", "who ?"]
    run(shell, "%%kvchat -n 3 --edit 2\nhow many ?")
    assert [turn["asked"] for turn in chat.to_dict()["turns"]][1:] == ["how many ?"]
    assert shell.user_ns["_kv"] is chat.results[-1]
    assert chat.results[-1].tokens.reused > 0
    assert run(shell, "%%kvchat --edit 1 --keep-later\nAnna has 5 apples .") is chat
    assert [turn["asked"] for turn in chat.to_dict()["turns"]] == ["Anna has 5 apples .", "how many ?"]
    run(shell, "%%kvchat -n 1 --drop-thinking\nwho ?")
    assert len(chat.results) == 3
    assert "--keep-later is for a cell with --edit" in refused(shell, "%%kvchat --keep-later\nhello")
    assert run(shell, "%%kvchat --new -n 1\nhello") is not chat
    assert "no turn 5" in refused(shell, "%%kvchat --edit 5\nhello")
    assert "holds no prompt" in refused(shell, "%%kvchat\n  ")


def test_a_chat_takes_chunks_and_a_system_text(shell, session):
    chunk = run(shell, "%%kvchunk notes\nMarta has 3 apples .")
    chat = run(shell, "%%kvchat -n 1 --system 'you are terse'\n{{ notes }} who ?")
    assert chat.to_dict()["system"] == "you are terse"
    assert chat.results[0].chunks[0][0] == "notes"
    assert len(chunk) == chat.results[0].chunks[0][2] - chat.results[0].chunks[0][1]


def test_an_interrupted_turn_is_none(shell, session):
    chat = run(shell, "%%kvchat --new -n 1\nhello")
    with interrupt_at(session, 3), capture_output():
        done = shell.run_cell("%%kvchat -n 12\nhello", store_history=False)
    assert isinstance(done.error_in_exec, KeyboardInterrupt)
    assert len(chat.results) == 1
    assert shell.user_ns["_kv"].finish_reason == "interrupted"


def test_a_turn_in_a_notebook_is_one_output_with_its_bar(shell, front_end):
    quiet(shell, "%%kvchat --new -n 4\nhello")
    quiet(shell, "%%kvchat -n 4\nhello again")
    assert [kind for kind, _ in front_end].count("display") == 2
    last = front_end[-1][1]["text/html"]
    assert "nbkv-chat" in last
    assert "turn 2: " in last
    assert "so far" in last


def test_a_chat_in_a_notebook_is_a_live_view_over_its_picture(shell, front_end):
    quiet(shell, "%%kvchat --new -n 4\nhello")
    del front_end[:]
    quiet(shell, "chat = %kvchat")
    (view, picture) = [data for kind, data in front_end if kind == "display"]
    assert VIEW in view
    assert "Chat with" in view["text/plain"]
    assert "hello" in picture["text/html"]
    chat = shell.user_ns["chat"]
    quiet(shell, "%%kvchat -n 4\nhello again")
    updated = [data for kind, data in front_end if kind == "update"][-1]
    assert "hello again" in updated["text/html"]
    assert len(chat.results) == 2


def test_a_question_that_fails_in_place_of_another_leaves_both(shell, session):
    chat = run(shell, "%%kvchat --new -n 2\none")
    run(shell, "%%kvchat -n 2\ntwo")
    for line in ("-s nothing", "-n 0", "-t -1"):
        refused(shell, f"%%kvchat --edit 1 {line}\nother")
    with interrupt_at(session, 3), capture_output():
        shell.run_cell("%%kvchat --edit 1 -n 12\nother", store_history=False)
    assert [turn["asked"] for turn in chat.to_dict()["turns"]] == ["one", "two"]
