from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import nbkv
from nbkv import cli
from nbkv.models import loading
from nbkv.models.identity import verdicts
from nbkv.models.identity.record import Record
from nbkv.models.probing.probe import probe

PACKAGE = Path(nbkv.__file__).parent
ROOMS = ("families", "inference", "models", "session", "stores", "strategies")
CODE = sorted(
    path.relative_to(PACKAGE)
    for pattern in ("*.py", *(f"{room}/**/*.py" for room in ROOMS))
    for path in PACKAGE.glob(pattern)
)
MOST_PASSES = 8  # of the forward itself, over at most 20 tokens: what the check at load may take


@pytest.fixture
def saved(tmp_path, make_model, tokenizer):
    make_model("llama").save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    return tmp_path / "small"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("NBKV_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "verified"


def test_a_record_survives_json(model_of, family):
    record = probe(model_of(family), family)

    assert Record.from_dict(json.loads(json.dumps(record.to_dict()))) == record


@pytest.mark.parametrize("damage", [{}, {"capabilities": {}}, {"capabilities": None}])
def test_a_damaged_record_is_none(damage):
    with pytest.raises(ValueError, match="not a record"):
        Record.from_dict(damage)


def test_a_model_is_proved_once(saved, kept, words, monkeypatch):
    with nbkv.load(saved) as session:
        first = session.generate(words(20), max_new_tokens=4).token_ids
    assert len(list(kept.iterdir())) == 1
    monkeypatch.setattr(loading, "probe", None)
    with nbkv.load(saved) as session:
        assert session.adapter.rope is not None
        assert session.adapter.walk is not None
        assert session.generate(words(20), max_new_tokens=4).token_ids == first
        assert session.generate(words(20), max_new_tokens=4).tokens.reused == 20


def test_other_weights_are_proved_anew(saved, kept, make_model):
    nbkv.load(saved).close()
    make_model("llama", seed=1).save_pretrained(saved)
    nbkv.load(saved).close()

    assert len(list(kept.iterdir())) == 2


def test_a_damaged_file_is_one_warning_and_a_new_proof(saved, kept):
    nbkv.load(saved).close()
    path = next(kept.iterdir())
    path.write_text("{", encoding="utf-8")
    with pytest.warns(UserWarning, match="cannot be read and are done again"):
        nbkv.load(saved).close()
    assert json.loads(path.read_text(encoding="utf-8"))["record"]["tells_positions"]


def test_a_folder_that_cannot_be_written_is_one_warning(saved, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("NBKV_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="not remembered"):
        nbkv.load(saved).close()


def test_a_loaded_model_is_not_remembered(kept, model_of, tokenizer):
    nbkv.load(model_of("llama"), tokenizer=tokenizer).close()

    assert not kept.exists()


def test_a_strategy_that_failed_is_refused_unless_forced(saved, kept, words):
    with nbkv.load(saved) as session:
        handle = session.adapter.walk._own[1].register_forward_hook(
            lambda module, args, out: out + 0.3 * (out.shape[-2] < 20)
        )
        report = session.verify("prefix")
        assert not report.ok
        with pytest.raises(nbkv.UnsupportedModel, match="failed its self-check"):
            session.generate(words(9), max_new_tokens=2)
        assert session.generate(words(9), max_new_tokens=2, force=True).token_ids
        assert session.use("prefix", force=True).spec == "prefix"
    with nbkv.load(saved) as session, pytest.raises(nbkv.UnsupportedModel, match="force=True"):
        session.generate(words(9), max_new_tokens=2)
    handle.remove()
    with nbkv.load(saved) as session:
        assert session.verify().ok
        assert session.generate(words(9), max_new_tokens=2).token_ids


def test_several_strategies_in_one_table(session_of):
    table = session_of("llama").verify(["full", "prefix"]).to_frame()

    assert set(table["strategy"]) == {"", "full", "prefix"}
    assert table["ok"].all()


def test_the_command_prints_the_table_and_fails_with_the_check(saved, kept, capsys, tmp_path, monkeypatch):
    out = tmp_path / "table.json"
    assert cli.main(["verify", str(saved), "--json", str(out)]) == 0
    said = capsys.readouterr().out
    assert "relocation" in said
    assert "prefix: branch" in said
    assert json.loads(out.read_text(encoding="utf-8"))["ok"]
    from nbkv.rope import Rotation

    monkeypatch.setattr(Rotation, "rotate", lambda self, keys, cos, sin: keys)
    assert cli.main(["verify", str(saved), "-s", "full"]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert cli.main(["verify", str(tmp_path / "none")]) == 2


def test_the_check_at_load_is_a_few_short_passes(model_of, family):
    model, passes = model_of(family), []
    handle = model.register_forward_pre_hook(
        lambda _module, _args, given: passes.append(given["input_ids"].shape), with_kwargs=True
    )
    try:
        probe(model, family)
    finally:
        handle.remove()

    assert len(passes) <= MOST_PASSES
    assert max(shape[-1] for shape in passes) <= 20
    assert torch.is_grad_enabled()


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the code that findings are about, from which the stamp is taken."""
    for path in CODE:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PACKAGE / path, tmp_path / path)
    monkeypatch.setattr(verdicts, "__file__", str(tmp_path / "models" / "identity" / "verdicts.py"))
    return tmp_path


def test_any_change_of_what_is_proved_asks_for_a_new_proof(copied):
    stamp = verdicts._code.__wrapped__
    before = stamp()
    assert {path.parts[0] for path in CODE if len(path.parts) > 1} == set(ROOMS)
    for path in CODE:
        own = (copied / path).read_bytes()
        (copied / path).write_bytes(own + b"#\n")
        assert stamp() != before, f"a change of {path} goes unnoticed: old verdicts would be believed"
        (copied / path).write_bytes(own)
    assert stamp() == before


def test_a_new_file_deep_in_a_room_asks_for_a_new_proof(copied):
    before = verdicts._code.__wrapped__()
    (copied / "models" / "caches" / "new" / "room").mkdir(parents=True)
    (copied / "models" / "caches" / "new" / "room" / "cache.py").write_text("", encoding="utf-8")
    (copied / "models" / "caches" / "other.py").write_text("x = 1\n", encoding="utf-8")

    assert verdicts._code.__wrapped__() != before
