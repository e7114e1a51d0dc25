"""The table of what kept attention costs in answers, on the bundled block-diffusion reader.

``python -m nbkv.studies.flashblock`` (a part of ``make tables``) writes docs/tables/flashblock.json and
docs/flashblock.md; the tests run a slice of it. Each answer is kept as it is given, in
docs/tables/flashblock.part.jsonl: stopped at any time, by Ctrl-C, a kill, or after ``--seconds``, the same command goes
on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbkv.models.identity.software import versions
from nbkv.studies.flashblock.answer_log import AnswerLog, Key
from nbkv.studies.flashblock.comparison import FOLLOWED, FULL, TAUS, answer, compared, sparse
from nbkv.studies.flashblock.page import PAPER, write
from nbkv.tasks.report import report

if TYPE_CHECKING:
    from nbkv.session.session import Session

UNMASK = ("static", "dynamic")
BLOCKS = (4, 8)
SEED, COUNT = 601, 48  # settings were chosen on seed 301
UNFINISHED = 3  # the exit code of a slice


def specs(unmask: str) -> list[str]:
    """Return what is measured: sparse attention under the rule that reuses most, one token a pass."""
    return [FULL, *TAUS, *((*sparse(tau=2), *sparse()) if unmask == UNMASK[0] else ())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer what is not answered yet; write table and page once all is. Return 3 where there is more to do."""
    asked = _parser().parse_args(arguments)
    out, end = Path(asked.out), time.monotonic() + asked.seconds
    log, name = None, ""
    for block in asked.blocks:
        with _loaded(asked.model, block) as session:
            name = session.model_name
            about = versions() | {"model": session.adapter.fingerprint, "seed": SEED, "questions": asked.n}
            log = log or AnswerLog(out / "tables" / "flashblock.part.jsonl", about)
            for _ in _answered(session, block, asked.n, log):
                if time.monotonic() > end:
                    break
        if time.monotonic() > end:
            break
    assert log is not None  # noqa: S101
    keys = [key for block in asked.blocks for key in _keys(block, asked.n)]
    done = sum(key in log.known for key in keys)
    sys.stderr.write(f"{done} of {len(keys)} answers\n")
    if done < len(keys):
        return UNFINISHED
    regime = f"`{name}`, {asked.n} reports of 48 lines of notes, seed {SEED}, float32, reuse forced"
    write({"regime": regime, "followed": FOLLOWED, "paper": PAPER, "rows": _rows(asked.blocks, asked.n, log)}, out)
    log.remove()
    return 0


def _loaded(model: str, block: int) -> Session:
    import nbkv  # noqa: PLC0415  (not from below itself)

    return nbkv.load(model, block_size=block, strategy=FULL)


def _keys(block: int, n: int) -> list[Key]:
    return [(block, unmask, spec, at) for unmask in UNMASK for spec in specs(unmask) for at in range(n)]


def _answered(session: Session, block: int, n: int, log: AnswerLog) -> Iterator[Key]:
    """Answer what ``log`` lacks of a block size, and yield the key of each answer once it is kept."""
    items = report(seed=SEED, n=n, distance=0)
    for key in _keys(block, n):
        if key not in log.known:
            _, unmask, spec, at = key
            log.add(key, answer(session, items[at], spec, unmask, follow=at < FOLLOWED))
            yield key


def _rows(blocks: Sequence[int], n: int, log: AnswerLog) -> list[dict[str, Any]]:
    rows = []
    for block in blocks:
        for unmask in UNMASK:
            given = {spec: [log.known[block, unmask, spec, at] for at in range(n)] for spec in specs(unmask)}
            rows += compared(given)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nbkv.studies.flashblock", description=__doc__)
    parser.add_argument("--model", default="tiny-diffusion")
    parser.add_argument("--out", default="docs")
    parser.add_argument("-n", type=int, default=COUNT, help="questions (%(default)s)")
    parser.add_argument("--blocks", nargs="+", type=int, default=list(BLOCKS))
    told = "stop after so many, at the end of an answer, with exit status 3: the same command goes on (never)"
    parser.add_argument("--seconds", type=float, default=float("inf"), help=told)
    return parser
