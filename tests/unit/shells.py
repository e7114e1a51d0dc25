"""Cells run in a real IPython shell, and what a front end would be told of them."""

import signal
from contextlib import contextmanager

from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from nbkv.events import Token


def new_shell(folder):
    config = Config({"HistoryManager": {"enabled": False}})
    return InteractiveShell(colors="nocolor", config=config, ipython_dir=str(folder))


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


class Recorder(DisplayPublisher):
    """Keeps what a front end would be told."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.told = []

    def publish(self, data, *, update=False, **_):
        self.told.append(("update" if update else "display", data))

    def clear_output(self, wait=False):
        self.told.append(("clear", wait))


def quiet(shell, cell):
    """Run a cell without capturing its displays."""
    return shell.run_cell(cell, store_history=False)
