"""Runs a peer in a process of its own: installed on demand beside our environment, asked line by line.

Started as ``python -m nbkv.bench.peer SHAPE DTYPE THREADS`` this module is that process: KVBoost on the same weights.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PEER = "kvboost==0.9.0"


class Missing(Exception):
    """The peer cannot be measured; says why in one line."""


@contextmanager
def kvboost(shape: str, dtype: str, threads: int) -> Iterator[Callable[[str, int], dict[str, Any]]]:
    """Give a function that has KVBoost answer ``(text, n_tokens)`` with ``ttft_s`` and more.

    ``ttft_s`` is from the call to its first ``on_token``, which is what our own figure is too; ``own_ttft_s`` is the
    part of it that the peer itself reports; ``reused`` is a share of the prompt, ``tokens`` the answer.
    Raises ``Missing`` if it cannot be installed or does not start.
    """
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, PEER]
        if subprocess.run(pip, capture_output=True, check=False).returncode:  # noqa: S603
            message = f"pip could not install {PEER}"
            raise Missing(message)
        command = [sys.executable, "-W", "ignore", "-m", __name__, shape, dtype, str(threads)]
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        child = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )

        def ask(text: str, n: int) -> dict[str, Any]:
            assert child.stdin is not None  # noqa: S101
            assert child.stdout is not None  # noqa: S101
            child.stdin.write(json.dumps({"text": text, "n": n}) + "\n")
            child.stdin.flush()
            for line in child.stdout:
                if line.startswith("{"):
                    answer: dict[str, Any] = json.loads(line)
                    return answer
            message = f"{PEER} stopped without an answer"
            raise Missing(message)

        try:
            yield ask
        except BrokenPipeError as error:
            message = f"{PEER} did not start"
            raise Missing(message) from error
        finally:
            child.kill()
            child.communicate()


def serve(shape: str, dtype: str, threads: str) -> None:
    """Answer requests on standard input, one line of JSON each, until it closes."""
    import torch  # noqa: PLC0415  (only in the process of its own)

    from nbkv.bench.models import make  # noqa: PLC0415

    torch.set_num_threads(int(threads))
    bench = make(shape, getattr(torch, dtype))
    engine = importlib.import_module("kvboost").KVBoost(
        bench.model, bench.tokenizer, max_cache_bytes=2**33, device=str(bench.model.device)
    )
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_answer(engine, **json.loads(line))) + "\n")
        sys.stdout.flush()


def _answer(engine: Any, text: str, n: int) -> dict[str, Any]:  # noqa: ANN401  (of another library, which is not installed here)
    came: list[float] = []
    start = time.perf_counter()
    result = engine.generate(text, max_new_tokens=n, on_token=lambda _: came.append(time.perf_counter()))
    return {
        "ttft_s": came[0] - start,
        "own_ttft_s": result.ttft_ms / 1000,
        "reused": result.kv_reuse_ratio,
        "tokens": [int(word.removeprefix("w")) for word in result.output_text.split()],
    }


if __name__ == "__main__":
    serve(*sys.argv[1:])
