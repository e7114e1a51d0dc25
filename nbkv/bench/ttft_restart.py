"""``ttft.restart``: the first request of a process whose prefix another process has left on disk.

The floor is the same request with its K/V in memory plus the loading alone, both measured in that process once it is
warm. Each round is a process of its own, which this module is as well (``python -m nbkv.bench.ttft_restart``); the time
to load the model is not counted, files are read while the operating system has them in memory.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.bench.first_token import first_token, loading
from nbkv.bench.measure import CONTEXT, BenchRow

if TYPE_CHECKING:
    from nbkv.session.session import Session

NAME, NEW, CHECKED, FULL, REPEATS = "ttft.restart", 32, 4, "full", 3
DISK = "disk"


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no peer)
    """Measure the first request of ``rounds`` processes behind ``context`` tokens (2,048) that lie on disk."""
    from nbkv.bench.agreement import decided  # noqa: PLC0415  (the processes of the rounds need none of it)
    from nbkv.bench.models import half, make  # noqa: PLC0415

    context, bench = context or CONTEXT, make(shape or "s06", half())
    base = bench.ids(context, seed=1)
    row = BenchRow(name=NAME, regime=bench.regime(cached=context, new=NEW, rounds=rounds), against=FULL, strategy=DISK)
    ids, wanted = decided(bench, base, NEW, CHECKED)
    with tempfile.TemporaryDirectory(prefix="nbkv-ttft-restart-") as folder:
        model = Path(folder) / "model"
        bench.model.save_pretrained(model)
        bench.tokenizer.save_pretrained(model)
        others = [base + bench.ids(NEW, seed=100 + seed) for seed in range(REPEATS)]
        asked = {"folder": str(model), "dtype": row.regime["dtype"], "threads": row.regime["threads"], "base": context}
        asked |= {"store": f"{folder}/store", "texts": [bench.text(each) for each in (ids, *others)]}
        _process(asked | {"texts": [bench.text(base)]})
        told = [_process(asked | {"store": _copied(asked["store"], number)}) for number in range(rounds)]
    for each in told:
        if each["reused"] != context:
            return [replace(row, refused=f"{each['reused']} of {context} stored tokens were reused")]
    if why := next(filter(None, (wanted.differs(each["tokens"]) for each in told)), ""):
        return [replace(row, refused=why)]
    seconds = {name: statistics.median(each[name] for each in told) for name in ("first", "memory", "load", FULL)}
    parts = f"loading alone {seconds['load'] * 1e3:.1f} ms, in memory {seconds['memory'] * 1e3:.1f} ms"
    floor = seconds["memory"] + seconds["load"]
    return [replace(row, baseline=seconds[FULL], ours=seconds["first"], floor=floor, notes=(parts,))]


def _copied(store: str, number: int) -> str:
    """Return a copy of ``store`` for one process: what it leaves there itself is not for the next one."""
    return str(shutil.copytree(store, f"{store}-{number}"))


def _process(asked: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", __name__]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True)  # noqa: S603
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _serve(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds to the first token of the first text, and of the same kind of request afterwards."""
    import torch  # noqa: PLC0415

    import nbkv  # noqa: PLC0415

    torch.set_num_threads(asked["threads"])
    options = {"strategy": "prefix", "store": f"memory+disk:{asked['store']}", "dtype": asked["dtype"]}
    with nbkv.load(asked["folder"], **options) as session:
        text, *others = asked["texts"]
        told: dict[str, Any] = {"first": first_token(session, text).seconds}
        if not others:
            session.store.flush()
            return told
        told["reused"] = int(session.history()["reused"].iloc[-1])
        told["memory"] = statistics.median([first_token(session, other).seconds for other in others])
        told["load"] = statistics.median([_load(session, text, asked["base"]) for _ in others])
        told["tokens"] = session.generate(text, max_new_tokens=CHECKED).token_ids
        told[FULL] = first_token(session, text, strategy=FULL).seconds
    return told


def _load(session: Session, text: str, whole: int) -> float:
    """Return the seconds of loading the base alone, waited for, into a buffer as a request has one."""
    session.store.flush()
    session.store.clear()
    return loading(session, session._prompt(text).ids[:whole], NEW)  # noqa: SLF001  (as a request has it)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_serve(json.loads(sys.stdin.read()))) + "\n")
