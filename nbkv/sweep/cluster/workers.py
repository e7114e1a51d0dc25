"""The processes that runs are given to: started here for one sweep, or those of a cluster that is already there."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nbkv.errors import BadOption, LoadError
from nbkv.sweep.cluster.devices import gpus, one_gpu_each
from nbkv.sweep.content import software

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)
_NOTHING = logging.CRITICAL + 1
_PATIENCE = "20s"  # for a scheduler to answer


@contextmanager
def local_workers(n: int) -> Iterator[Client]:
    """Give a client of ``n`` processes on this machine, which end with the block and whatever they run.

    The cores are shared out among them, and with several GPUs each sees one. One that dies is started again.
    """
    try:
        from distributed import Client, LocalCluster  # noqa: PLC0415  (only for several processes)
    except ImportError:
        raise _missing() from None

    threads = str(max(1, len(os.sched_getaffinity(0)) // n)) if hasattr(os, "sched_getaffinity") else "1"
    env = {name: os.environ.get(name, threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    address = "127.0.0.1:0"  # only for this machine
    with (
        _quiet(),
        LocalCluster(
            n_workers=n, threads_per_worker=1, env=env, dashboard_address=address, silence_logs=_NOTHING
        ) as cluster,
        Client(cluster) as client,
    ):
        if (found := gpus()) > 1:
            client.register_plugin(one_gpu_each(found))
        log.info("%d workers on this machine; dashboard: %s", n, client.dashboard_link)
        yield client


@contextmanager
def cluster_workers(address: str) -> Iterator[Client]:
    """Give a client of the scheduler at ``address``, which goes on when the block ends.

    Raises ``LoadError`` if nobody answers there, or a worker has another nbkv, torch or transformers than this process.
    """
    try:
        from distributed import Client  # noqa: PLC0415  (only for several machines)
    except ImportError:
        raise _missing() from None

    try:
        client = Client(address, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        message = f"no dask scheduler answers at {address!r} (tcp://host:8786, say): {' '.join(str(error).split())}"
        raise LoadError(message) from None
    with client:
        mine = software()
        others = [worker for worker, theirs in client.run(software, on_error="return").items() if theirs != mine]
        if others:
            message = (
                f"{len(others)} workers of {address} have another nbkv, torch, transformers or Python than this "
                f"process, or none: {', '.join(others[:3])}"
            )
            raise LoadError(message)
        log.info("%d workers at %s; dashboard: %s", len(client.nthreads()), address, client.dashboard_link)
        yield client


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block dask says nothing: how its processes part, after a Ctrl-C too, is no news to anybody."""
    handlers = logging.getLogger("distributed").handlers
    before = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(_NOTHING)
    try:
        yield
    finally:
        for handler, level in zip(handlers, before, strict=True):
            handler.setLevel(level)


def _missing() -> BadOption:
    return BadOption("several workers need dask.distributed: pip install nbkv[cluster]")
