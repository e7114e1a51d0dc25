"""The magics in a real kernel, as JupyterLab and papermill drive it."""

import sys

import pytest
from jupyter_client import KernelManager
from waiting import HOLD, PATIENCE_S, until


@pytest.fixture(scope="module")
def kernel():
    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=PATIENCE_S)
    yield Kernel(manager, client)
    client.stop_channels()
    manager.shutdown_kernel(now=True)


class Kernel:
    """Runs cells and keeps what a front end would be told."""

    def __init__(self, manager, client):
        self.manager, self.client = manager, client

    def start(self, code):
        return self.client.execute(code, store_history=False)

    def replies(self, *numbers):
        found = {}
        while set(numbers) - set(found):
            reply = self.client.get_shell_msg(timeout=PATIENCE_S)
            found[reply["parent_header"]["msg_id"]] = reply["content"]
        return [found[number] for number in numbers]

    def told(self, number, until=lambda kind: kind == "idle"):
        seen = []
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE_S)
            if message["parent_header"].get("msg_id") != number:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            seen.append((kind, content))
            if until(content.get("execution_state") if kind == "status" else kind):
                return seen

    def run(self, code):
        number = self.start(code)
        told = self.told(number)
        return self.replies(number)[0], told

    def again(self):
        """Wait until cells run again: after an error those that were sent meanwhile are aborted."""
        while self.replies(number := self.start(""))[0]["status"] == "aborted":
            pass
        self.told(number)


@pytest.fixture(scope="module")
def loaded(kernel):
    # Answers are as long as a test asks for.
    endless = "config = session.adapter.model.generation_config\nconfig.suppress_tokens = [config.eos_token_id]"
    reply, told = kernel.run(f"%load_ext nbkv\nsession = %kvload tiny\n{endless}\n{HOLD}")
    assert reply["status"] == "ok", told
    return kernel


@pytest.fixture
def resting(loaded, tmp_path):
    """The kernel, and a function that starts a cell in it and returns its number once it has something to stop."""
    sign = tmp_path / "rests"
    loaded.run(f"resting = hold(session, 100, sign={str(sign)!r})")

    def start(cell):
        number = loaded.start(cell)
        until(sign.exists)
        return number

    yield loaded, start
    loaded.run("session.events.drop(resting)")


def outputs(told):
    kinds = {"display_data", "update_display_data", "clear_output", "execute_result", "error", "stream"}
    return [(kind, content) for kind, content in told if kind in kinds]


@pytest.mark.parametrize(
    ("cell", "view"),
    [
        ("%%kvgen -n 40\nWho paid for the lamp?", "nbkv-result"),
        ("%%kvcompare full,prefix -n 4\nWho paid for the lamp?", "nbkv-comparison"),
        ("%kvverify full", "nbkv-report"),
    ],
)
def test_one_display_grows_and_becomes_what_is_returned(loaded, cell, view):
    reply, told = loaded.run(cell)
    assert reply["status"] == "ok"
    kinds = [kind for kind, _ in outputs(told)]
    assert kinds[0] == "display_data"
    assert set(kinds[1:]) == {"update_display_data"}
    names = {content["transient"]["display_id"] for kind, content in outputs(told) if kind.endswith("display_data")}
    assert len(names) == 1
    assert view in outputs(told)[-1][1]["data"]["text/html"]
    again = outputs(loaded.run("_")[1])
    assert [kind for kind, _ in again] == ["execute_result"]
    assert view in again[0][1]["data"]["text/html"]


def test_what_stands_above_in_the_cell_survives(loaded):
    loop = "for who in 'ab': get_ipython().run_cell_magic('kvgen', '-n 3', who)"
    reply, told = loaded.run(f"print('before')\n{loop}\nget_ipython().run_cell_magic('kvgen', '-n 3', 'c')")
    assert reply["status"] == "ok"
    kinds = [kind for kind, _ in outputs(told)]
    assert "clear_output" not in kinds
    assert kinds.count("stream") == 1
    assert kinds.count("display_data") == 3
    reply, told = loaded.run("result = get_ipython().run_cell_magic('kvgen', '-n 3', 'd')\ndisplay(result)")
    kinds = [kind for kind, _ in outputs(told)]
    assert kinds.count("display_data") == 2


def test_an_error_is_one_line_and_fails_the_cell(loaded):
    reply, told = loaded.run("%%kvgen\n{{ nothing }}")
    assert reply["status"] == "error"
    (kind, content), *more = outputs(told)
    assert (kind, more) == ("stream", [])
    assert content["text"].strip().startswith("UsageError: unknown name {{ nothing }}")
    assert content["text"].strip().count("\n") == 0


def test_the_stop_button_keeps_the_text_and_stops_the_queue(resting):
    kernel, start = resting
    number = start("%%kvgen -n 2000\nWho paid for the lamp?")
    queued = kernel.start("after = 'ran'")
    kernel.manager.interrupt_kernel()
    told = kernel.told(number)
    stopped, aborted = kernel.replies(number, queued)
    assert stopped["status"] == "error"
    assert stopped["ename"] == "KeyboardInterrupt"
    assert aborted["status"] == "aborted"
    assert [kind for kind, _ in outputs(told)][-1] == "error"
    assert stopped["traceback"] == [f"KeyboardInterrupt: {stopped['evalue']}"]
    assert stopped["evalue"].endswith("; _kv has them")
    last = next(content for kind, content in reversed(outputs(told)) if kind == "update_display_data")
    assert "interrupted" in last["data"]["text/plain"]
    kernel.again()
    reply, told = kernel.run("print(_kv.finish_reason, 0 < len(_kv.token_ids) < 2000)")
    assert reply["status"] == "ok"
    assert outputs(told)[0][1]["text"] == "interrupted True\n"
    reply, _ = kernel.run("%%kvgen -n 2\nWho paid for the lamp?")
    assert reply["status"] == "ok"


@pytest.mark.parametrize(
    "cell",
    [
        "%%kvcompare full,prefix -n 600 --repeat 20\nWho paid for the lamp?",
        "%kvverify full prefix full prefix full prefix",
        "session.compare('Who paid for the lamp?', 'full,prefix', repeat=500)",
        "session.generate('Who paid for the lamp?', max_new_tokens=2000)",
    ],
)
def test_an_interrupt_of_long_work_is_one_line_and_keeps_it(resting, cell):
    kernel, start = resting
    number = start(cell)
    kernel.manager.interrupt_kernel()
    told = kernel.told(number)
    (stopped,) = kernel.replies(number)
    assert stopped["ename"] == "KeyboardInterrupt"
    (line,) = stopped["traceback"]
    assert line.startswith("KeyboardInterrupt: stopped after ")
    kernel.again()
    if cell.startswith("%"):
        last = next(content for kind, content in reversed(outputs(told)) if kind == "update_display_data")
        assert "stopped after" in last["data"]["text/plain"]
        _, told = kernel.run("print(bool(_kv.stopped), 0 < len(_kv.rows))")
        assert outputs(told)[0][1]["text"] == "True True\n"
