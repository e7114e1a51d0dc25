"""A short report on this machine as nbkv finds it: versions, devices, memory, attention kernels, models proven."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil
import torch

from nbkv import __version__, show
from nbkv.models.identity.verdicts import folder
from nbkv.models.pretrained.packages import PACKAGED, whereabouts
from nbkv.models.pretrained.source import bundled
from nbkv.show.units import plural

_NEEDED = {"torch": "2.9", "transformers": "5.17"}
_OPTIONAL = ("accelerate", "gguf", "triton", "peft")


@dataclass(frozen=True)
class Finding:
    """One line: ``what`` was looked at, what was ``found``, and the ``problem`` with it (empty: none)."""

    what: str
    found: str
    problem: str = ""


@dataclass(frozen=True)
class Health:
    """What was found; ``ok`` if nothing keeps nbkv from working."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Return whether there is no problem."""
        return not any(finding.problem for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON-able data."""
        return {"kind": "health", "ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}

    def __repr__(self) -> str:
        """Return the table as text."""
        return show.health_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.health_html(self.to_dict())


def health() -> Health:
    """Look; nothing is loaded or changed."""
    memory = psutil.virtual_memory()
    return Health(
        (
            Finding("nbkv", f"{__version__}, Python {platform.python_version()}"),
            *(_package(name, least) for name, least in _NEEDED.items()),
            Finding("optional", ", ".join(_optional(name) for name in _OPTIONAL)),
            Finding(
                "CPU",
                f"{plural(os.cpu_count() or 1, 'core')}, "
                f"{plural(torch.get_num_threads(), 'thread')} used by torch, {_half()}",
            ),
            Finding("memory", f"{_gb(memory.available)} free of {_gb(memory.total)}"),
            *_cards(),
            Finding("fused attention", _attention()),
            _remembered(),
            Finding("bundled models", ", ".join(bundled())),
            *(Finding(name, whereabouts(model)) for name, model in PACKAGED.items()),
        )
    )


def _package(name: str, least: str) -> Finding:
    found = version(name)
    mine, needed = (tuple(int(part) for part in text.split("+")[0].split(".")[:2]) for text in (found, least))
    return Finding(name, found, f"nbkv needs at least {least}" if mine < needed else "")


def _optional(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def _half() -> str:
    quick = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001  (no public one)
    return "computes in bfloat16" if quick else "float32 only"


def _cards() -> list[Finding]:
    if not torch.cuda.is_available():
        return [Finding("GPU", "none that torch can use: models run on the CPU in float32")]
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found.append(Finding(f"cuda:{index}", f"{name}, {_gb(free)} free of {_gb(total)}"))
    return found


def _attention() -> str:
    """Say which kernels torch has for attention that does not write out its weights; on a CPU it is tried."""
    kernels = []
    if torch.cuda.is_available():
        backends = torch.backends.cuda
        kernels += ["flash on CUDA"] if backends.flash_sdp_enabled() else []
        kernels += ["memory-efficient on CUDA"] if backends.mem_efficient_sdp_enabled() else []
    one = torch.zeros(1, 1, 2, 8)
    try:
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(one, one, one)  # noqa: SLF001  (what sdpa calls)
        kernels.append("flash on the CPU")
    except (AttributeError, NotImplementedError, RuntimeError):
        pass
    return ", ".join(kernels) or "none: attention writes out its weights"


def _remembered() -> Finding:
    path = folder() / "verified"
    known = len(list(path.glob("*.json"))) if path.is_dir() else 0
    parent = next(each for each in (path, *path.parents) if each.exists())
    problem = "" if os.access(parent, os.W_OK) else "cannot be written: every load proves its model again"
    return Finding("models proven", f"{known} remembered in {folder()}", problem)


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
