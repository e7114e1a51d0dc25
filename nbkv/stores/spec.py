"""Parses store specifications such as ``memory?device=4GiB+disk:~/.cache/nbkv?limit=50GiB+redis://localhost``."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import psutil

from nbkv.errors import BadOption, StoreUnavailable
from nbkv.events import Bus
from nbkv.scalars import kind_of
from nbkv.stores.base import Store
from nbkv.stores.memory import MemoryStore
from nbkv.stores.tiered import TieredStore
from nbkv.stores.tiers import forms
from nbkv.stores.tiers.base import Tier
from nbkv.stores.tiers.head import EntryFacts, Sealer
from nbkv.stores.tiers.indexed import policies
from nbkv.stores.tiers.indexed.policies import policy_of

KEY_VARIABLE = "NBKV_STORE_KEY"  # the environment variable with the key that entries are sealed with
_ACCEPTED = "memory, disk:PATH, redis://HOST:PORT/DB, any URL of fsspec; tiers joined with +, fastest first"
_UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHARE = 0.25  # of the free memory, the default limit
_MOST = 8 * 2**30
_ALPHA = 1.0
_MEMORY_OPTIONS = ("device", "host", "policy", "alpha")
_TIER_OPTIONS = ("limit", "policy", "ttl", "form", "writes", "timeout")
_POLICIES = ("marconi", "lru")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://")
_NEXT = re.compile(r"\+(?=memory(?:[?+]|$)|disk:|[a-z][a-z0-9.-]*://)")


@dataclass(frozen=True)
class TierSpec:
    """One tier as written: ``kind`` (``memory``, ``disk``, ``redis``, ``fsspec``), where it is, and its options."""

    kind: str
    place: str
    options: dict[str, str]

    def __repr__(self) -> str:
        """Return it without credentials."""
        return f"TierSpec({self.kind}, {masked(self.place)})"


def open_store(spec: str | Sequence[str] | Store, bus: Bus, *devices: str) -> Store:
    """Return the store that ``spec`` names; a store object is returned as it is.

    ``memory`` keeps each layer's K/V on that layer's device: ``devices`` are one a layer, or one for all layers.
    ``device=SIZE`` sets its limit in bytes (default: what fills a quarter of the free memory of any device, at most
    8 GiB). ``policy=marconi`` (the default) evicts the lowest score, recency + ``alpha=1`` x FLOPs saved per byte
    (arXiv 2411.19379); for a model without recurrent layers that is the least recently used, as with ``policy=lru``
    for all models. On a GPU what it evicts goes to pinned memory of the host, at most ``host=SIZE`` of it.

    Tiers below are ``disk:PATH``, ``redis://…`` and any other URL, which fsspec opens. Their options: ``limit=SIZE``
    (none: as much as there is room for), ``policy=lru|lfu|cost|rank``, ``ttl=7d``, ``form=int8|fp8|kvzip``,
    ``writes=through|back``, and for Redis ``timeout`` in seconds. Without ``memory`` nothing is kept between requests
    but there. Where the environment has ``NBKV_STORE_KEY``, only entries sealed with that key are taken.

    Raises ``BadOption`` for anything else, ``StoreUnavailable`` for a tier that cannot be opened. ``bus`` hears what is
    stored and evicted.
    """
    if not isinstance(spec, str) and not _is_list(spec):
        if not callable(getattr(spec, "take", None)):
            message = f"store is {kind_of(spec)} (accepted: {_ACCEPTED}, or a store object)"
            raise BadOption(message)
        return spec  # type: ignore[return-value]  # neither text nor a list of texts
    return _opened(check_spec(spec), bus, devices)  # type: ignore[arg-type]  # one of them


def _is_list(spec: object) -> bool:
    return isinstance(spec, (list, tuple)) and all(isinstance(part, str) for part in spec)


def check_spec(spec: str | Sequence[str]) -> list[TierSpec]:
    """Return the tiers of ``spec``; raises ``BadOption`` for an unknown store, option or value."""
    written = [unquote_plus(part) for part in _NEXT.split(spec)] if isinstance(spec, str) else list(spec)
    tiers = [_tier(part) for part in written]
    if [tier.kind for tier in tiers].count("memory") > 1 or "memory" in [tier.kind for tier in tiers[1:]]:
        message = f"memory stands elsewhere than first in {masked(str(spec))!r} (accepted: memory first, and once)"
        raise BadOption(message)
    lossy = {tier.options.get("form", "") for tier in tiers if tier.kind != "memory"}
    if len(lossy) > 1:
        message = f"all tiers below memory hold KV in one form; {masked(str(spec))!r} has several"
        raise BadOption(message)
    return tiers


def unquote_plus(part: str) -> str:
    """Return ``part`` with ``%2B`` as the plus sign that it stands for."""
    return re.sub("%2B", "+", part, flags=re.IGNORECASE)


def masked(spec: str) -> str:
    """Return ``spec`` with what stands before an @ in its URLs made unreadable."""
    return re.sub(r"://[^/@\s]*@", "://***@", spec)


def _tier(part: str) -> TierSpec:
    place, _, query = str(part).partition("?")
    options = dict(parse_qsl(query.replace("+", "%2B"), keep_blank_values=True))
    if place == "memory":
        _check_memory(options, part)
        return TierSpec("memory", place, options)
    if place.startswith("disk:") and place != "disk:":
        kind, place = "disk", place.removeprefix("disk:")
    elif place.startswith(("redis://", "rediss://")):
        kind = "redis"
    elif _URL.match(place):
        kind = "fsspec"
    else:
        message = f"unknown store {masked(part)!r} (accepted: {_ACCEPTED})"
        raise BadOption(message)
    _check_tier(options, kind, part)
    return TierSpec(kind, place, options)


def _check_names(options: dict[str, str], accepted: Sequence[str], part: str) -> None:
    for option in options:
        if option not in accepted:
            message = f"unknown store option {option!r} in {masked(part)!r} (accepted: {', '.join(accepted)})"
            raise BadOption(message)


def _check_memory(options: dict[str, str], part: str) -> None:
    _check_names(options, _MEMORY_OPTIONS, part)
    if options.get("policy", "marconi") not in _POLICIES:
        message = f"unknown policy {options['policy']!r} in {part!r} (accepted: {', '.join(_POLICIES)})"
        raise BadOption(message)
    alpha = options.get("alpha")
    if alpha is not None and (options.get("policy") == "lru" or not re.fullmatch(r"\d+(\.\d+)?", alpha)):
        message = f"alpha={alpha!r} in {part!r} is not accepted: alpha is a number >= 0, with policy=marconi"
        raise BadOption(message)
    for size in ("device", "host"):
        parse_size(options.get(size, "0"))


def _check_tier(options: dict[str, str], kind: str, part: str) -> None:
    _check_names(options, _TIER_OPTIONS if kind == "redis" else _TIER_OPTIONS[:-1], part)
    parse_size(options.get("limit", "0"))
    parse_seconds(options.get("ttl", "0s"))
    parse_seconds(options.get("timeout", "1s"))
    policies.policy_of(options.get("policy", "lru"))
    forms.form_of(options.get("form", ""))
    if options.get("writes", "through") not in {"through", "back"}:
        message = f"writes={options['writes']!r} in {masked(part)!r} is not accepted (accepted: through, back)"
        raise BadOption(message)


def parse_size(text: str) -> int:
    """Return the bytes that ``text`` such as ``4GiB`` or ``500MB`` names; raises ``BadOption``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    if match is None or match[2] not in _UNITS:
        message = f"not a size: {text!r} (accepted: a number with one of {', '.join(unit for unit in _UNITS if unit)})"
        raise BadOption(message)
    return int(float(match[1]) * _UNITS[match[2]])


def parse_seconds(text: str) -> float:
    """Return the seconds that ``text`` such as ``90s``, ``12h`` or ``7d`` names; raises ``BadOption``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]?)\s*", text)
    if match is None:
        message = f"not a time: {text!r} (accepted: a number with one of {', '.join(_SECONDS)})"
        raise BadOption(message)
    return float(match[1]) * _SECONDS[match[2] or "s"]


def _opened(tiers: list[TierSpec], bus: Bus, devices: tuple[str, ...]) -> Store:
    first = tiers[0].options if tiers[0].kind == "memory" else None
    below = tiers if first is None else tiers[1:]
    front = _memory(first, bus, devices)
    opened = [open_tier(tier) for tier in below]
    if any(device.startswith("cuda") for device in devices):
        opened.insert(0, _host(first or {}))
    if not opened:
        return front
    options = below[0].options if below else {}
    facts = EntryFacts(ttl=parse_seconds(options.get("ttl", "0s")))
    form = forms.form_of(options.get("form", ""))
    return TieredStore(front, opened, bus, devices or ("cpu",), form=form, sealer=sealer(), facts=facts)


def _memory(options: dict[str, str] | None, bus: Bus, devices: tuple[str, ...]) -> MemoryStore:
    if options is None:
        return MemoryStore(limit=0, bus=bus)
    limit = parse_size(options["device"]) if "device" in options else min(int(_free(devices) * _SHARE), _MOST)
    alpha = 0.0 if options.get("policy") == "lru" else float(options.get("alpha", _ALPHA))
    return MemoryStore(limit=limit, bus=bus, alpha=alpha)


def _host(options: dict[str, str]) -> Tier:
    from nbkv.stores.tiers.host import HostTier  # noqa: PLC0415  (only beside a GPU)

    limit = parse_size(options["host"]) if "host" in options else min(int(_free_on("cpu") * _SHARE), _MOST)
    return HostTier(limit=limit, pinned=True)


def open_tier(tier: TierSpec) -> Tier:
    """Return the tier below memory that ``tier`` names; raises ``StoreUnavailable``."""
    options = tier.options
    given = {
        "limit": parse_size(options.get("limit", "0")),
        "policy": policy_of(options.get("policy", "lru")),
        "sealer": sealer(),
        "writes": options.get("writes", "through"),
    }
    try:
        if tier.kind == "disk":
            from nbkv.stores.tiers.disk import DiskTier  # noqa: PLC0415  (each tier where it is used)

            return DiskTier(root=Path(tier.place), **given)  # type: ignore[arg-type]  # as its fields are
        if tier.kind == "redis":
            from nbkv.stores.tiers.redis import RedisTier  # noqa: PLC0415  (an extra)

            timeout = parse_seconds(options.get("timeout", "2s"))
            return RedisTier(url=tier.place, timeout_s=timeout, **given)  # type: ignore[arg-type]  # as its fields are
        from nbkv.stores.tiers.remote import RemoteTier  # noqa: PLC0415  (each tier where it is used)

        return RemoteTier(url=tier.place, **given)  # type: ignore[arg-type]  # as its fields are
    except (OSError, ImportError) as error:
        message = f"the store {masked(tier.place)!r} cannot be opened: {masked(str(error))}"
        raise StoreUnavailable(message) from None


def sealer() -> Sealer:
    """Return the sealer with the key that the environment has, or without one."""
    return Sealer(os.environ.get(KEY_VARIABLE, "").encode())


def _free(devices: tuple[str, ...]) -> float:
    """Return how many bytes of K/V fit until the first device is full, if each layer takes an equal share."""
    return min(_free_on(device) * len(devices) / devices.count(device) for device in set(devices))


def _free_on(device: str) -> int:
    if device.startswith("cuda"):
        import torch  # noqa: PLC0415  (asked of the device, only where there is one)

        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)
