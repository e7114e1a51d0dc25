"""``views``: what a dashboard on display costs the generation it shows, in a kernel with a comm as in a notebook.

The front end draws in a process of its own and is not counted.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import torch
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

import nbkv
from nbkv.bench.measure import BenchRow, TimedCandidate, interleaved
from nbkv.bench.models import TINY, make
from nbkv.widgets.dashboard import Dashboard

NAME, TOKENS, AGAINST = "views", 2000, "no dashboard"


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (one prompt of fixed size)
    """Generate ``TOKENS`` tokens on each side, in turns, with a dashboard on display and without."""
    told, updates = _in_kernel(f"import nbkv.bench.views as v; print(v.measured({shape or TINY!r}, {rounds}))")
    found = json.loads(told)
    bare, shown = found["seconds"][AGAINST], found["seconds"]["ours"]
    cpu, cpu_bare = found["cpu"]
    notes = (
        f"{100 * (shown / bare - 1):+.1f} % time a token, {100 * (cpu / cpu_bare - 1):+.1f} % CPU time",
        f"{updates / found['shown_s']:.1f} updates a second",
    )
    regime = found["regime"]
    return [BenchRow(name=NAME, regime=regime, against=AGAINST, baseline=bare, ours=shown, floor=bare, notes=notes)]


def measured(shape: str, rounds: int) -> str:
    """Return the medians of both sides as JSON; for use inside a kernel."""
    bench = make(shape, torch.float32)
    new = max(2, TOKENS // rounds)
    spent: list[float] = []
    cpu: tuple[list[float], list[float]] = ([], [])
    with nbkv.load(bench.model, tokenizer=bench.tokenizer, strategy="full") as session:
        text = bench.text(bench.ids(32, seed=1))

        def generate(view: Dashboard | None) -> float:
            begun = time.process_time()
            took = session.generate(text, max_new_tokens=new).timing.total_s
            cpu[view is None].append(time.process_time() - begun)
            if view is not None:
                spent.append(took)
                view.close()
            return took

        candidates = [TimedCandidate("ours", generate, lambda: Dashboard(session)), TimedCandidate(AGAINST, generate)]
        seconds = interleaved(candidates, rounds)
    regime = bench.regime(prompt=32, new=new, rounds=rounds)
    medians = [statistics.median(side) for side in cpu]  # of the whole process, whoever else uses the machine
    return json.dumps({"seconds": seconds, "cpu": medians, "regime": regime, "shown_s": sum(spent)})


class _ThisInterpreter(KernelManager):
    @property
    def kernel_spec(self) -> KernelSpec:
        """Return the specification of a kernel of this interpreter, whatever kernels are installed."""
        return KernelSpec(**get_kernel_dict())


def _in_kernel(code: str) -> tuple[str, int]:
    """Run ``code`` in a kernel of its own; return what it printed and how many states its widgets sent."""
    printed: list[str] = []
    updates = 0

    def hear(message: dict[str, Any]) -> None:
        nonlocal updates
        content = message["content"]
        printed.append(content["text"] if content.get("name") == "stdout" else "")
        updates += message["msg_type"] == "comm_msg"

    manager = _ThisInterpreter()
    manager.start_kernel()
    client = manager.blocking_client()
    try:
        client.start_channels()
        client.wait_for_ready()
        reply = client.execute_interactive(code, output_hook=hear)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(reply["content"]["evalue"])
    return "".join(printed), updates
