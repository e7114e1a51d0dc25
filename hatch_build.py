"""Puts the built JupyterLab extension into the wheel, and has an editable install found from every folder."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "labextension"
BUILT = f"{SOURCE}/nbkv_lab/labextension"
SHARE = "share/jupyter/labextensions/nbkv-lab"

# The finder that an editable install has by itself comes last, after any folder named nbkv/ on sys.path: in the folder
# above a clone that is the clone. This one lets sys.path end with the package's place, for these two names alone:
# other packages of the name still go first, mere folders do not, and the name `kernels` stays free.
FINDER = """import sys
from importlib.machinery import PathFinder

PLACES = {places!r}


class NbkvFinder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, [*sys.path, PLACES[name]], target) if name in PLACES else None


sys.meta_path.insert(0, NbkvFinder)
"""


class LabExtension(BuildHookInterface):  # type: ignore[type-arg]  # the builder's configuration is of no interest
    """An editable install takes the extension if it is built; whatever is shipped has it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files, or say what is missing."""
        root = Path(self.root)
        if version == "editable":
            build_data["force_include_editable"] = self._finder(root)
        if not (root / BUILT / "package.json").is_file():
            if version == "editable":
                return
            self._build(root / SOURCE)
        if self.target_name == "wheel":
            build_data["shared_data"][BUILT] = SHARE
            build_data["shared_data"][f"{SOURCE}/install.json"] = f"{SHARE}/install.json"
        else:
            build_data["artifacts"].append(f"/{BUILT}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002  (hatch's)
        """Remove what was written for an editable install."""
        if version == "editable":
            shutil.rmtree(self._written)

    def _finder(self, root: Path) -> dict[str, str]:
        """Write the finder, and the file that installs it in every interpreter; return where they go."""
        places = {"nbkv": str(root), "nbkv_kernels": str(root / "kernels")}
        folder = Path(tempfile.mkdtemp())
        (folder / "finder.py").write_text(FINDER.format(places=places), encoding="utf-8")
        (folder / "finder.pth").write_text("import _nbkv_finder", encoding="utf-8")
        self._written = folder
        return {str(folder / "finder.py"): "_nbkv_finder.py", str(folder / "finder.pth"): "_nbkv_finder.pth"}

    def _build(self, folder: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            message = (
                f"the JupyterLab extension is not built and there is no npm to build it: see {folder.name}/README.md"
            )
            raise RuntimeError(message)
        for command in (["ci"], ["run", "build"]):
            subprocess.run([npm, *command], cwd=folder, check=True)  # noqa: S603  (a fixed command)
