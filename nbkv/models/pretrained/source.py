"""Where a model is read from, by what the user called it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nbkv.errors import LoadError
from nbkv.models.pretrained.gguf_file import check_packages, gguf_note
from nbkv.models.pretrained.packages import PACKAGED, PackagedModel, converted, in_hub_cache, installed

_BUNDLED = Path(__file__).parents[1] / "bundled"


@dataclass(frozen=True)
class Source:
    """``place`` is a folder, a hub id or a GGUF file; ``name`` is short; ``notes`` say what is not to be expected."""

    place: str
    name: str
    notes: tuple[str, ...] = ()

    @property
    def gguf(self) -> Path | None:
        """Return the GGUF file, if it is one."""
        return Path(self.place) if is_gguf(self.place) else None


def bundled() -> list[str]:
    """Return the names of the models that come with nbkv."""
    return sorted(path.parent.name for path in _BUNDLED.glob("*/config.json"))


def known_models() -> list[str]:
    """Return the names that need neither folder nor hub: bundled models, and pretrained ones that packages carry."""
    return [*bundled(), *PACKAGED]


def names() -> str:
    """Return the known names as messages have them."""
    return f"bundled: {', '.join(bundled())}; pretrained: {', '.join(PACKAGED)}"


def source(model: str) -> Source:
    """Return where to read ``model`` from: a bundled name, a folder, a GGUF file, a packaged model's name, or a hub id.

    A folder of that name comes before a packaged model, as it does before a hub id. Raises ``LoadError``.
    """
    if model in bundled():
        return Source(str(_BUNDLED / model), model)
    path = Path(model).expanduser()
    if path.is_dir():
        return _folder(path, model)
    if is_gguf(model) and path.is_file():
        return Source(str(path), path.stem, (gguf_note(path),))
    if path.exists():
        message = (
            f"{model!r} is a file (accepted: a .gguf file, a folder written by save_pretrained, a hub id, {names()})"
        )
        raise LoadError(message)
    if model in PACKAGED:
        return _packaged(PACKAGED[model])
    if is_gguf(model) or model.startswith((".", "/", "~")) or model.count("/") > 1 or not model:
        what = "file" if is_gguf(model) else "folder"
        message = f"no {what} {model!r} (accepted: a folder, a .gguf file, a hub id, {names()})"
        raise LoadError(message)
    return Source(model, model)


def is_gguf(model: str) -> bool:
    """Return whether ``model`` is the name of a GGUF file."""
    return model.lower().endswith(".gguf")


def _folder(path: Path, model: str) -> Source:
    if any((path / kind).is_file() for kind in ("config.json", "adapter_config.json")):
        return Source(str(path), path.name)
    files = sorted(file.name for file in path.glob("*.gguf"))
    instead = f"one of its GGUF files, such as {files[0]}" if files else "a folder written by save_pretrained"
    message = f"folder {model!r} holds no config.json (accepted: {instead})"
    raise LoadError(message)


def _packaged(model: PackagedModel) -> Source:
    """Return the original weights where the hub's cache has them, else what was converted, else the package's file."""
    if (folder := in_hub_cache(model)) is not None:
        return Source(str(folder), model.name, (f"{model.hub} from the hub's cache",))
    if (folder := converted(model)) is not None:
        return Source(str(folder), model.name, (f"{model.name} from the models folder, converted from a GGUF file",))
    if (file := installed(model)) is not None:
        check_packages(repr(model.name))
        return Source(str(file), model.name, (f"{model.name} from the package {model.packages[0]}", gguf_note(file)))
    message = f"{model.name!r} is not here: {model.how}"
    raise LoadError(message)
