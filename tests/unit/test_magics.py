"""The magics in a real IPython shell, on the bundled model."""

import re
import signal
from itertools import pairwise

import pytest
from IPython.core.completer import provisionalcompleter
from shells import heard_by, interrupt_at, new_shell, quiet, run

from nbkv.events import Advanced
from nbkv.magics.options import split_words

pytestmark = pytest.mark.usefixtures("fresh_notebook")

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
