"""Trained link tokens as a file: embeddings of their own, by slot and place, and what they were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nbkv.errors import LoadError

NAME = "links.safetensors"
"""A file of this name beside a model's weights is found by itself."""

_TENSOR, _TRAINED_ON = "links", "trained_on"


@dataclass(frozen=True, eq=False)
class Links:
    """Embeddings ``[slots, links, H]``: those of slot ``i`` follow the ``i``-th chunk of a prompt.

    ``trained_on`` is the fingerprint of the model they belong to; empty if the file does not say.
    """

    vectors: torch.Tensor
    trained_on: str = ""

    @property
    def slots(self) -> int:
        """Return how many chunks a prompt may have."""
        return self.vectors.shape[0]


def write_links(path: str | Path, links: Links) -> None:
    """Write ``links`` to ``path`` as safetensors."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    vectors = links.vectors.detach().to("cpu").contiguous()
    save_file({_TENSOR: vectors}, str(path), metadata={_TRAINED_ON: links.trained_on})


def read_links(path: str | Path) -> Links:
    """Return the link tokens at ``path``, read once for as long as the file stays as it is. Raises ``LoadError``."""
    place = Path(path).expanduser()
    if not place.is_file():
        message = f"no file {str(path)!r} with link tokens (accepted: safetensors as notebooks/train_links.ipynb makes)"
        raise LoadError(message)
    state = place.stat()
    return _read(str(place), state.st_mtime_ns, state.st_size)


def beside(folder: str) -> str:
    """Return the path of the link tokens that lie in the model's ``folder``; empty if there are none."""
    path = Path(folder) / NAME
    return str(path) if folder and path.is_file() else ""


@lru_cache(maxsize=8)
def _read(path: str, _mtime: int, _size: int) -> Links:
    wanted = f"{_TENSOR!r} [slots, links, hidden]"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            vectors = file.get_tensor(_TENSOR) if _TENSOR in file.keys() else None  # noqa: SIM118  (it is no mapping)
    except (SafetensorError, OSError) as error:
        message = f"cannot read {path!r}: {error} (accepted: safetensors with one tensor {wanted})"
        raise LoadError(message) from error
    if vectors is None or vectors.ndim != 3 or not vectors.numel() or not vectors.is_floating_point():  # noqa: PLR2004
        found = "no such tensor" if vectors is None else f"{vectors.dtype} {list(vectors.shape)}".removeprefix("torch.")
        message = f"{path!r} holds {found} (accepted: safetensors with a tensor {wanted})"
        raise LoadError(message)
    return Links(vectors, metadata.get(_TRAINED_ON, ""))
