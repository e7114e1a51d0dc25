"""A shell with the magics and a session on the bundled model, for tests of what people type."""

import pytest
from shells import Recorder, new_shell, run


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


@pytest.fixture
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


@pytest.fixture
def front_end(shell, monkeypatch):
    """Let the shell believe it has a kernel with a front end; return what that is told."""
    recorder = Recorder()
    monkeypatch.setattr(shell, "kernel", object(), raising=False)
    monkeypatch.setattr(shell, "display_pub", recorder)
    monkeypatch.setattr("nbkv.magics.stream_output.INTERVAL", 0.0)
    monkeypatch.setattr("IPython.core.interactiveshell.InteractiveShell._instance", shell)
    return recorder.told
