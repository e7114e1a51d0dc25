"""Which session a magic means: loaded by magics or made in Python, and what becomes of it when magics go."""

from __future__ import annotations

import gc

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import nbkv


@pytest.fixture
def shell(tmp_path):
    config = Config({"HistoryManager": {"enabled": False}})
    made = InteractiveShell(colors="nocolor", config=config, ipython_dir=str(tmp_path))
    run(made, "%load_ext nbkv")
    yield made
    run(made, "%unload_ext nbkv")


@pytest.fixture
def made(session_of, shell):
    """Sessions that Python made, by name, as the notebook's variables of that name."""

    def make(name):
        shell.user_ns[name] = session_of(name=name)
        return shell.user_ns[name]

    return make


def run(shell, cell):
    done = shell.run_cell(cell, store_history=False)
    done.raise_error()
    return done.result


def sessions(shell):
    return shell.magics_manager.registry["KVMagics"].sessions


@pytest.mark.parametrize(
    "cell", ["%%kvgen --raw -n 3\nw1 w2 w3", "%%kvchunk a\nw1 w2 w3", "%%kvcompare --raw -n 2 prefix\nw1", "%kvstats"]
)
def test_magics_take_what_python_made(shell, made, cell):
    session = made("mine")
    found = run(shell, cell)

    assert found is not None
    assert sessions(shell).current is session
    assert "mine (current)" in repr(run(shell, "%kvlist"))


def test_the_newest_is_current_until_one_is_chosen(shell, made):
    first, second = made("first"), made("second")
    assert sessions(shell).current is second
    assert run(shell, "%kvuse --session first") is first
    third = made("third")
    assert sessions(shell).current is first
    assert sessions(shell).names == ["first", "second", "third"]
    first.close()
    assert sessions(shell).current is third


@pytest.mark.parametrize("leave", ["%unload_ext nbkv", "%reload_ext nbkv", "%kvload tiny"])
def test_magics_do_not_close_what_python_made(shell, made, words, leave):
    session = made("mine")
    run(shell, "%kvuse --session mine")
    run(shell, leave)

    assert session.generate(words(5), max_new_tokens=1).token_ids
    run(shell, "%load_ext nbkv")


def test_magics_keep_alive_nothing_that_python_made(shell, make_model, tokenizer):
    shell.user_ns["mine"] = nbkv.load(make_model("llama"), tokenizer=tokenizer, name="mine")
    assert run(shell, "%kvstats").session == "mine"
    del shell.user_ns["mine"]
    gc.collect()

    assert sessions(shell).names == []


def test_asked_by_name_they_are_closed(shell, made):
    session = made("mine")
    run(shell, "%kvclose mine")

    assert session.closed
    assert sessions(shell).names == []


def test_two_of_one_name_are_both_there(shell, made, session_of):
    run(shell, "%kvload tiny --as mine")
    other = made("mine")

    assert sessions(shell).names == ["mine", "mine_"]
    assert sessions(shell).get("mine_") is other
    assert sessions(shell).current is not other


@pytest.mark.parametrize("times", [1, 2, 3])
def test_reloading_keeps_sessions_and_unloading_closes_them(shell, times):
    first = run(shell, "%kvload tiny --as first")
    second = run(shell, "%kvload tiny --as second")
    chunk = run(shell, "%%kvchunk notes\nThe blue key is in the drawer .")
    run(shell, "%kvuse --session first")
    for _ in range(times):
        run(shell, "%reload_ext nbkv")

    assert sessions(shell).names == ["first", "second"]
    assert sessions(shell).current is first
    assert second.chunks == {"notes": chunk}
    assert run(shell, "%%kvgen -n 2\nWhere is the key ?").token_ids
    run(shell, "%unload_ext nbkv")
    assert first.closed
    assert second.closed
    run(shell, "%load_ext nbkv")
    assert sessions(shell).names == []


def test_unloading_and_loading_in_one_cell_is_reloading(shell):
    session = run(shell, "%kvload tiny")
    run(shell, "%unload_ext nbkv\n%load_ext nbkv")

    assert not session.closed
    assert sessions(shell).current is session
