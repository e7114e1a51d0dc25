"""Module paths that notebooks and documents of version 0.1 name: importing one gives the module where it is now."""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = {
    "nbkv.families.mix": "nbkv.families.blend.partial",
    "nbkv.models.masks": "nbkv.models.attention.masks",
    "nbkv.models.prompt": "nbkv.prompts.prompt",
    "nbkv.tasks.compared": "nbkv.studies.statistics",
    "nbkv.tasks.diffusing": "nbkv.training.diffusion_reader",
    "nbkv.tasks.eviction": "nbkv.studies.eviction",
    "nbkv.tasks.following": "nbkv.studies.divergence",
    "nbkv.tasks.keeping": "nbkv.studies.flashblock",
    "nbkv.tasks.linking": "nbkv.training.link_tokens",
    "nbkv.tasks.oracle": "nbkv.studies.oracle",
    "nbkv.tasks.reading": "nbkv.training.batch_scoring",
    "nbkv.tasks.tables": "nbkv.studies.chunks",
    "nbkv.tasks.training": "nbkv.training.reader",
}


class _Same(Loader):
    """Gives the module itself under its former name."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module as it is; whatever the import system writes into it is taken back afterwards."""
        module = importlib.import_module(NOW[spec.name])
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing: the module has run."""
        module.__spec__ = self._own

    def get_code(self, name: str) -> CodeType | None:
        """Return the module's code, for ``python -m``."""
        spec = find_spec(NOW[name])
        return spec.loader.get_code(spec.name) if spec and spec.loader else None  # type: ignore[attr-defined]


class FormerPaths(MetaPathFinder):
    """Asked last, so that it answers only for what is not there."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        """Return where the module called ``name`` comes from, if it had that name once."""
        return ModuleSpec(name, _Same()) if name in NOW else None


def install() -> None:
    """Have former names found, once."""
    if not any(isinstance(finder, FormerPaths) for finder in sys.meta_path):
        sys.meta_path.append(FormerPaths())
