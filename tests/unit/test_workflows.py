"""The workflows are what GitHub reads, and run what the Makefile has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github" / "workflows"
PINNED = re.compile(r"[\w.-]+/[\w./-]+@(?:v\d+|release/v\d+|[0-9a-f]{40})")
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def read(text):
    """Return a workflow; YAML 1.1 takes its key ``on`` for true."""
    workflow = yaml.safe_load(text)
    workflow["on"] = workflow.pop(True)
    return workflow


def faults(workflow):
    """Return what is wrong with a workflow, one line each."""
    found = []
    for name, job in workflow["jobs"].items():
        if set(_list(job.get("needs"))) - set(workflow["jobs"]):
            found.append(f"{name} needs a job that is not there")
        if "uses" in job:
            continue
        if "timeout-minutes" not in job or "runs-on" not in job:
            found.append(f"{name} has no machine or no limit of time")
        for step in job["steps"]:
            if "uses" in step and not PINNED.fullmatch(step["uses"]):
                found.append(f"{name} uses {step['uses']} without a major version")
            for target in re.findall(r"^make ([\w -]+)$", step.get("run", ""), re.MULTILINE):
                found += [f"{name} makes {one}, which is no target" for one in target.split() if one not in TARGETS]
    if "permissions" not in workflow:
        found.append("it may do whatever the repository allows")
    return found


def _list(value):
    return value if isinstance(value, list) else [value] if value else []


@pytest.fixture
def ci():
    return read((FOLDER / "ci.yml").read_text(encoding="utf-8"))


@pytest.fixture
def release():
    return read((FOLDER / "release.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yml")), ids=lambda path: path.name)
def test_a_workflow_has_no_fault(path):
    assert faults(read(path.read_text(encoding="utf-8"))) == []


def test_ci_tests_every_python_that_the_package_names_and_all_its_parts(ci):
    least = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    versions = ci["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert versions == ["3.11", "3.12", "3.13"]
    assert least == f">={versions[0]}"
    assert set(ci["jobs"]) == {"test", "browser", "docs", "binder", "wheel"}
    made = {word for job in ci["jobs"].values() for step in job["steps"] for word in step.get("run", "").split()}
    asked = re.findall(r"^make (.+)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert {word for line in asked for word in line.split() if not word.startswith("-")} <= made


def test_a_release_comes_after_every_test_and_without_a_password(release):
    text = (FOLDER / "release.yml").read_text(encoding="utf-8")
    publish = release["jobs"]["publish"]
    assert "ci" in _list(publish["needs"])
    assert release["jobs"]["ci"]["uses"] == "./.github/workflows/ci.yml"
    assert publish["permissions"]["id-token"] == "write"
    assert "secrets." not in text
    assert "password" not in yaml.dump(publish)
    assert release["on"] == {"push": {"tags": ["v*"]}}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("actions/checkout@v4", "actions/checkout@main", "without a major version"),
        ("make docs", "make pages", "which is no target"),
        ("timeout-minutes: 90", "name: tests", "no limit of time"),
        ("permissions:\n  contents: read\n", "", "whatever the repository allows"),
    ],
)
def test_a_fault_is_seen(before, after, said):
    text = (FOLDER / "ci.yml").read_text(encoding="utf-8")
    assert before in text
    assert said in "\n".join(faults(read(text.replace(before, after))))
