"""Copies from the host to where a model's layers are: on a GPU beside its work, from pinned memory."""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import Any

import torch


class DeviceCopy:
    """Copies made from any thread; ``need(layer)`` has what a device does next in this thread wait for a layer's.

    On a CPU a copy is over when ``copy`` returns, and there is nothing to wait for.
    """

    def __init__(self) -> None:
        """Copy nothing yet."""
        self._lock = threading.Lock()
        self._streams: dict[torch.device, Any] = {}
        self._over: defaultdict[int, list[tuple[torch.device, Any]]] = defaultdict(list)

    def copy(self, layer: int, source: torch.Tensor, into: torch.Tensor) -> None:
        """Copy ``source`` to ``into``, which is part of what ``layer`` needs."""
        if into.device.type != "cuda":
            into.copy_(source)
            return
        with torch.cuda.stream(self._stream(into.device)) as _:
            into.copy_(source.pin_memory(), non_blocking=True)  # torch keeps pinned memory until the copy is over
            over = torch.cuda.Event()
            over.record()
        with self._lock:
            self._over[layer].append((into.device, over))

    def need(self, layer: int) -> None:
        """Have the device wait for the copies of ``layer``; this thread goes on."""
        with self._lock:
            copies = self._over.pop(layer, [])
        for device, over in copies:
            torch.cuda.current_stream(device).wait_event(over)

    def finish(self) -> None:
        """Have the device wait for all copies."""
        for layer in tuple(self._over):
            self.need(layer)

    def _stream(self, device: torch.device) -> Any:  # noqa: ANN401  (torch types it on GPUs only)
        with self._lock:
            if device not in self._streams:
                self._streams[device] = torch.cuda.Stream(device)
                self._streams[device].wait_stream(torch.cuda.default_stream(device))  # what used this memory before
            return self._streams[device]
