"""Benchmarks by name: each side by side with its baselines in one process, and only where the outputs agree."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from nbkv.bench.measure import BenchRow, table
from nbkv.errors import BadOption, UnknownName, closest

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BenchRow", "names", "run", "table"]

_HOME = {
    "ttft.prefix": "nbkv.bench.ttft_prefix",
    "ttft.chunks": "nbkv.bench.ttft_chunks",
    "ttft.tiers": "nbkv.bench.ttft_tiers",
    "ttft.restart": "nbkv.bench.ttft_restart",
    "decode.tpot": "nbkv.bench.decode_tpot",
    "batch.prefix": "nbkv.bench.batch_prefix",
    "search.ets": "nbkv.bench.search_ets",
    "agents.kvcomm": "nbkv.bench.agents_kvcomm",
    "agents.relay": "nbkv.bench.agents_relay",
    "diffusion.flashblock": "nbkv.bench.diffusion_flashblock",
    "residual.restore": "nbkv.bench.residual_restore",
    "import": "nbkv.bench.import_time",
    "overhead": "nbkv.bench.overhead",
    "store.io": "nbkv.bench.store_io",
    "why.gain": "nbkv.bench.why_gain",
    "store.scale": "nbkv.bench.store_scale",
    "views": "nbkv.bench.views",
    "panel": "nbkv.bench.panel",
}


def names() -> list[str]:
    """Return the names of all benchmarks."""
    return list(_HOME)


def run(
    chosen: Iterable[str] | None = None,
    *,
    shape: str | None = None,
    context: int | None = None,
    rounds: int = 5,
    peers: bool = True,
) -> list[BenchRow]:
    """Run the ``chosen`` benchmarks (all of them by default) and return their rows, one a baseline.

    ``shape`` replaces the model shape a benchmark is defined for, ``context`` its number of cached tokens, ``rounds``
    the number of interleaved rounds after warm-up; what was used stands in each row's regime. Without ``peers`` other
    libraries, which are installed on demand into a folder of their own, are left out.

    Raises ``UnknownName`` for a benchmark or shape that does not exist, ``BadOption`` for a context or a number of
    rounds below one.
    """
    wanted = list(chosen or _HOME)
    for name in wanted:
        if name not in _HOME:
            message = f"unknown benchmark {name!r}{closest(name, names())} (known: {', '.join(names())})"
            raise UnknownName(message)
    for what, value in (("context", context), ("rounds", rounds)):
        if value is not None and value < 1:
            message = f"{what}={value} is not accepted: {what} is a whole number >= 1"
            raise BadOption(message)
    rows: list[BenchRow] = []
    for name in wanted:
        rows += importlib.import_module(_HOME[name]).run(shape=shape, context=context, rounds=rounds, peers=peers)
    return rows
