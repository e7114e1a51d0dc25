"""Puts the built JupyterLab extension into the wheel, and builds it where it is missing and node is there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "labextension"
BUILT = f"{SOURCE}/nbkv_lab/labextension"
SHARE = "share/jupyter/labextensions/nbkv-lab"


class LabExtension(BuildHookInterface):  # type: ignore[type-arg]  # the builder's configuration is of no interest
    """An editable install takes the extension if it is built; whatever is shipped has it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files, or say what is missing."""
        root = Path(self.root)
        if not (root / BUILT / "package.json").is_file():
            if version == "editable":
                return
            self._build(root / SOURCE)
        if self.target_name == "wheel":
            build_data["shared_data"][BUILT] = SHARE
            build_data["shared_data"][f"{SOURCE}/install.json"] = f"{SHARE}/install.json"
        else:
            build_data["artifacts"].append(f"/{BUILT}")

    def _build(self, folder: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            message = (
                f"the JupyterLab extension is not built and there is no npm to build it: see {folder.name}/README.md"
            )
            raise RuntimeError(message)
        for command in (["ci"], ["run", "build"]):
            subprocess.run([npm, *command], cwd=folder, check=True)  # noqa: S603  (a fixed command)
