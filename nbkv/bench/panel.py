"""``panel``: what the JupyterLab panel costs a long generation, in a real kernel whose front end is played by us."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from jupyter_client.manager import start_new_kernel

from nbkv.bench.measure import BenchRow, TimedCandidate, interleaved
from nbkv.lab import CONTROL, TARGET

NAME, NEW = "panel", 100
PIECES = 20  # a round is 2,000 tokens with and 2,000 without, in turns this short: a machine's pace changes
CLOSED = "nobody listens"
LOAD = """
import os, time
import nbkv, torch
torch.set_num_threads({threads})
session = nbkv.load("tiny")
config = session.adapter.model.generation_config
config.suppress_tokens = [config.eos_token_id]
%load_ext nbkv
"""
GENERATE = """
start, work = time.perf_counter(), time.process_time()
made = len(session.generate("Who bought the lamp?", max_new_tokens={new}).token_ids)
print(made, time.perf_counter() - start, time.process_time() - work)
"""


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (the bundled reader)
    """Measure ``NEW`` generated tokens with the panel's messages and without; notes: how many, and processor time."""
    with PanelKernel.started() as kernel:
        candidates = [
            TimedCandidate("ours", lambda _: kernel.generate("ours"), kernel.listen),
            TimedCandidate(CLOSED, lambda _: kernel.generate(CLOSED), kernel.leave),
        ]
        seconds = interleaved(candidates, rounds * PIECES)
        regime = {"model": "tiny", "new": NEW, "rounds": rounds * PIECES, "threads": kernel.threads}
        ours, alone = (median(kernel.work[name][1:]) for name in ("ours", CLOSED))
        notes = (
            f"{kernel.states} states were sent in {rounds * PIECES + 1} generations",
            f"processor time of the kernel: {ours:.3f} s = {ours / alone:.3f} x {CLOSED}",
        )
    row = BenchRow(
        name=NAME, regime=regime, against=CLOSED, baseline=seconds[CLOSED], ours=seconds["ours"], notes=notes
    )
    return [row]


class PanelKernel:
    """A kernel with a session, and a front end that answers the comm or closes it."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401  (jupyter_client is typed in part)
        """Load a session."""
        self._client = client
        self._comm = ""
        self.states = 0
        self.work: dict[str, list[float]] = {}
        self.threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        self._run(LOAD.format(threads=self.threads))

    @classmethod
    @contextmanager
    def started(cls) -> Iterator[PanelKernel]:
        """Start a kernel for the length of a ``with`` block."""
        manager, client = start_new_kernel(kernel_name="python3")
        try:
            yield cls(client)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)

    def listen(self) -> None:
        """Answer, as a page with the panel does."""
        opening = {"comm_id": uuid.uuid4().hex, "target_name": CONTROL, "data": {"event": "sync"}}
        self._say("comm_open", opening)

    def leave(self) -> None:
        """Close the comm, as a page without the extension does; the kernel offers it again with the next cell."""
        self._say("comm_close", {"comm_id": self._comm, "data": {}})

    def generate(self, name: str) -> float:
        """Return the seconds of one generation, as the kernel measured them; note its processor time under ``name``."""
        tokens, seconds, work = self._run(GENERATE.format(new=NEW)).split()
        assert int(tokens) == NEW  # noqa: S101
        self.work.setdefault(name, []).append(float(work))
        return float(seconds)

    def _say(self, kind: str, content: dict[str, Any]) -> None:
        self._client.shell_channel.send(self._client.session.msg(kind, content))

    def _run(self, code: str) -> str:
        """Run a cell and return what it printed, hearing all that the kernel says meanwhile."""
        number, printed = self._client.execute(code), ""
        while True:
            message = self._client.get_iopub_msg(timeout=120)
            kind, content = message["msg_type"], message["content"]
            own = message["parent_header"].get("msg_id") == number
            self.states += kind == "comm_msg"
            if kind == "comm_open" and content["target_name"] == TARGET:
                self._comm = content["comm_id"]
            elif own and kind == "error":
                raise RuntimeError(content["evalue"])
            elif own and kind == "stream":
                printed += content["text"]
            elif own and kind == "status" and content["execution_state"] == "idle":
                return printed
