"""The magics in a real kernel, as JupyterLab and papermill drive it."""

import queue
import sys

import pytest
from jupyter_client import KernelManager


@pytest.fixture(scope="module")
def kernel():
    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
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
            reply = self.client.get_shell_msg(timeout=120)
            found[reply["parent_header"]["msg_id"]] = reply["content"]
        return [found[number] for number in numbers]

    def told(self, number, until=lambda kind: kind == "idle"):
        seen = []
        while True:
            message = self.client.get_iopub_msg(timeout=120)
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

    def drain(self):
        try:
            while True:
                self.client.get_iopub_msg(timeout=0.5)
        except queue.Empty:
            pass


@pytest.fixture(scope="module")
def loaded(kernel):
    # Answers are as long as a test asks for.
    endless = "config = session.adapter.model.generation_config\nconfig.suppress_tokens = [config.eos_token_id]"
    reply, told = kernel.run(f"%load_ext nbkv\nsession = %kvload tiny\n{endless}")
    assert reply["status"] == "ok", told
    return kernel


def outputs(told):
    kinds = {"display_data", "update_display_data", "clear_output", "execute_result", "error", "stream"}
    return [(kind, content) for kind, content in told if kind in kinds]


def test_streaming_updates_one_display_and_ends_with_the_result(loaded):
    reply, told = loaded.run("%%kvgen -n 40\nWho paid for the lamp?")
    assert reply["status"] == "ok"
    kinds = [kind for kind, _ in outputs(told)]
    assert kinds[0] == "display_data"
    assert kinds[-2:] == ["clear_output", "execute_result"]
    assert set(kinds[1:-2]) <= {"update_display_data"}
    names = {content["transient"]["display_id"] for kind, content in outputs(told) if kind.endswith("display_data")}
    assert len(names) == 1
    assert "nbkv-result" in outputs(told)[-1][1]["data"]["text/html"]


def test_an_error_is_one_line_and_fails_the_cell(loaded):
    reply, told = loaded.run("%%kvgen\n{{ nothing }}")
    assert reply["status"] == "error"
    (kind, content), *more = outputs(told)
    assert (kind, more) == ("stream", [])
    assert content["text"].strip().startswith("UsageError: unknown name {{ nothing }}")
    assert content["text"].strip().count("\n") == 0


def test_the_stop_button_keeps_the_text_and_stops_the_queue(loaded):
    number = loaded.start("%%kvgen -n 2000\nWho paid for the lamp?")
    queued = loaded.start("after = 'ran'")
    loaded.told(number, until=lambda kind: kind == "update_display_data")
    loaded.manager.interrupt_kernel()
    told = loaded.told(number)
    stopped, aborted = loaded.replies(number, queued)
    assert stopped["status"] == "error"
    assert stopped["ename"] == "KeyboardInterrupt"
    assert aborted["status"] == "aborted"
    kinds = [kind for kind, _ in outputs(told)]
    assert kinds[-1] == "error"
    last = next(content for kind, content in reversed(outputs(told)) if kind == "update_display_data")
    assert "interrupted" in last["data"]["text/plain"]
    loaded.drain()
    reply, told = loaded.run("print(_kv.finish_reason, 0 < len(_kv.token_ids) < 2000)")
    assert reply["status"] == "ok"
    assert outputs(told)[0][1]["text"] == "interrupted True\n"
    reply, _ = loaded.run("%%kvgen -n 2\nWho paid for the lamp?")
    assert reply["status"] == "ok"
