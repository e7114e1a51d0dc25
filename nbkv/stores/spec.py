"""Parses store specifications such as ``memory?device=4GiB&policy=lru``."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

import psutil

from nbkv.errors import BadOption
from nbkv.events import Bus
from nbkv.scalars import kind_of
from nbkv.stores.base import Store
from nbkv.stores.memory import MemoryStore

_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SHARE = 0.25  # of the free memory, the default limit
_MOST = 8 * 2**30
_ALPHA = 1.0
_OPTIONS = ("device", "policy", "alpha")
_POLICIES = ("marconi", "lru")


def open_store(spec: str | Store, bus: Bus, *devices: str) -> Store:
    """Return the store that ``spec`` names; a store object is returned as it is.

    ``memory`` keeps each layer's K/V on that layer's device: ``devices`` are one a layer, or one for all layers.
    ``device=SIZE`` sets its limit in bytes (default: what fills a quarter of the free memory of any device, at most
    8 GiB). ``policy=marconi`` (the default) evicts the lowest score, recency + ``alpha=1`` x FLOPs saved per byte
    (arXiv 2411.19379); for a model without recurrent layers that is the least recently used, as with ``policy=lru``
    for all models. Raises ``BadOption`` for anything else. ``bus`` hears what is stored and evicted.
    """
    if not isinstance(spec, str):
        if not callable(getattr(spec, "take", None)):
            message = f"store is {kind_of(spec)} (accepted: memory, memory?device=4GiB&policy=lru, or a store object)"
            raise BadOption(message)
        return spec
    options = check_spec(spec)
    limit = parse_size(options["device"]) if "device" in options else min(int(_free(devices) * _SHARE), _MOST)
    alpha = 0.0 if options.get("policy") == "lru" else float(options.get("alpha", _ALPHA))
    return MemoryStore(limit=limit, bus=bus, alpha=alpha)


def check_spec(spec: str) -> dict[str, str]:
    """Return the options of ``spec`` as text; raises ``BadOption`` for an unknown store, option or value."""
    name, _, query = str(spec).partition("?")
    if name != "memory":
        message = f"unknown store {spec!r} (accepted: memory, memory?device=4GiB&policy=lru)"
        raise BadOption(message)
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option in options:
        if option not in _OPTIONS:
            message = f"unknown store option {option!r} in {spec!r} (accepted: {', '.join(_OPTIONS)})"
            raise BadOption(message)
    if options.get("policy", "marconi") not in _POLICIES:
        message = f"unknown policy {options['policy']!r} in {spec!r} (accepted: {', '.join(_POLICIES)})"
        raise BadOption(message)
    if "alpha" in options:
        _check_alpha(options, spec)
    if "device" in options:
        parse_size(options["device"])
    return options


def _check_alpha(options: dict[str, str], spec: str) -> None:
    if options.get("policy") == "lru" or not re.fullmatch(r"\d+(\.\d+)?", options["alpha"]):
        message = f"alpha={options['alpha']!r} in {spec!r} is not accepted: alpha is a number >= 0, with policy=marconi"
        raise BadOption(message)


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` such as ``4GiB`` or ``500MB`` names; raises ``BadOption``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2] not in _UNITS:
        message = f"not a size: {text!r} (accepted: a number with one of {', '.join(unit for unit in _UNITS if unit)})"
        raise BadOption(message)
    return int(float(match[1]) * _UNITS[match[2]])


def _free(devices: tuple[str, ...]) -> float:
    """Return how many bytes of K/V fit until the first device is full, if each layer takes an equal share."""
    return min(_free_on(device) * len(devices) / devices.count(device) for device in set(devices))


def _free_on(device: str) -> int:
    if device.startswith("cuda"):
        import torch  # noqa: PLC0415  (asked of the device, only where there is one)

        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
