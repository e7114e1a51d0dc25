"""One GPU a worker: each process of this machine sees its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Worker, WorkerPlugin

VISIBLE = "CUDA_VISIBLE_DEVICES"


def gpus() -> int:
    """Return how many GPUs this process may use; torch is not imported for it."""
    if (given := os.environ.get(VISIBLE)) is not None:
        return len([one for one in given.split(",") if one.strip()])
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return 0
    done = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603  (a fixed command)
    return sum(line.startswith("GPU ") for line in done.stdout.splitlines()) if done.returncode == 0 else 0


def one_gpu_each(count: int) -> WorkerPlugin:
    """Return the plugin that shows each worker, also one started again, one of ``count`` GPUs, by its number."""
    from distributed import WorkerPlugin  # noqa: PLC0415  (only for several processes)

    known = (os.environ.get(VISIBLE) or ",".join(map(str, range(count)))).split(",")

    class OneGpuEach(WorkerPlugin):
        name = "nbkv-one-gpu-each"

        def setup(self, worker: Worker) -> None:
            os.environ[VISIBLE] = known[int(worker.name) % count].strip()

    return OneGpuEach()
