"""What computed: versions without loading any of it, and the commit of a checkout, of nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from nbkv.models.identity import software
from nbkv.models.identity.software import commit, versions


def git(folder, *asked):
    by = ["-c", "user.name=x", "-c", "user.email=x@y.z"]
    subprocess.run([shutil.which("git"), "-C", folder, *by, *asked], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    (tmp_path / "package" / "inside").mkdir(parents=True)
    (tmp_path / "package" / "code.py").write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "x")
    return tmp_path


def test_versions_name_what_computes():
    told = versions()
    assert told.keys() == {"Python", "nbkv", "torch", "transformers"}
    assert all(re.match(r"\d+\.\d+", told[name]) for name in ("Python", "torch", "transformers"))


def test_a_checkout_has_its_commit_and_says_when_it_was_changed(checkout):
    clean = commit(checkout / "package")
    assert re.fullmatch(r"[0-9a-f]{40}", clean)
    assert commit(checkout) == clean
    (checkout / "package" / "new.py").write_text("untracked\n")
    assert commit(checkout / "package") == clean
    (checkout / "package" / "code.py").write_text("a = 2\n")
    assert commit(checkout / "package") == f"{clean} with changes"


@pytest.mark.parametrize("what", ["deep inside", "no repository", "an empty one", "no git", "git fails"])
def test_where_there_is_no_commit_none_is_told(what, checkout, tmp_path_factory, monkeypatch):
    folder = checkout / "package"
    if what == "deep inside":
        folder = checkout / "package" / "inside"  # as an environment in somebody's repository is
    if what in {"no repository", "an empty one"}:
        folder = tmp_path_factory.mktemp("other")
    if what == "an empty one":
        git(folder, "init", "-q")
    if what == "no git":
        monkeypatch.setattr(software.shutil, "which", lambda _: None)
    if what == "git fails":
        monkeypatch.setattr(software.shutil, "which", lambda _: str(checkout / "gone"))
    assert commit(folder) == ""
