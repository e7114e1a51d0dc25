from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest

import nbkv
from nbkv import cli


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["run", "missing.ipynb"], "cannot read the notebook"),
        (["run", "missing.ipynb", "--grid", "missing.yaml"], "cannot read the grid"),
        (["report", "missing"], "no folder"),
        (["certify", "tiny", "--prompts", "missing", "--max-kl", "1"], "no file 'missing'"),
        (["bench", "ttft.prefx"], "did you mean 'ttft.prefix'?"),
    ],
)
def test_errors_of_the_user_are_one_line(arguments, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("nbkv: ")
    assert line in said.err
    assert said.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["run"], ["run", "a.ipynb", "-p", "n"]])
def test_wrong_use_is_exit_code_two(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2
    assert "usage: nbkv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("True", True),
        ("[1, 'a']", [1, "a"]),
        ("prefix", "prefix"),
        ("a b", "a b"),
        ("007", "007"),
    ],
)
def test_parameter_values_are_read_as_python_reads_them(text, value):
    assert cli.experiments._value(text) == value


def test_help_answers_without_torch():
    code = (
        "import sys\nfrom nbkv import cli\ntry:\n    cli.main(['-h'])\nfinally:\n    assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def test_an_interrupt_is_one_line(monkeypatch, capsys):
    def interrupted(folder):
        raise KeyboardInterrupt

    monkeypatch.setattr("nbkv.sweep.report", interrupted)
    assert cli.main(["report", "any"]) == 130
    assert capsys.readouterr().err == "nbkv: interrupted\n"


def test_markdown_escapes_the_bar():
    import pandas as pd

    assert cli.markdown(pd.DataFrame({"name": ["a|b"], "n": [1]})) == "| name | n |\n| --- | --- |\n| a\\|b | 1 |"


@pytest.fixture
def prompts(tmp_path):
    from nbkv.tasks import ledger

    path = tmp_path / "prompts.jsonl"
    records = [
        {"chunks": item.chunks, "question": item.question, "instruction": ""}
        for item in ledger(seed=3, n=5, chunks=2, lines=4)
    ]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return str(path)


FEW = ["--alpha", "0.3", "--rate", "0.3"]  # four prompts are enough


@pytest.mark.parametrize(
    ("bound", "code", "said"), [("9", 0, "passage(budget=0.1): with confidence 70 %"), ("0", 1, "refused: ")]
)
def test_a_certificate_or_a_refusal_is_printed_and_kept(bound, code, said, prompts, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nbkv.session.measure._GREEDY", 2)
    kept = tmp_path / "certificate.json"
    asked = ["certify", "tiny", "--prompts", prompts, "--max-kl", bound, *FEW, "-n", "4", "--json", str(kept)]

    assert cli.main([*asked, "-s", "passage(budget=0.1)"]) == code
    assert capsys.readouterr().out.startswith(said)
    data = json.loads(kept.read_text())
    assert (data["kind"], data["n"], data["max_kl"]) == ("certificate", 4, float(bound))
    assert (data["chosen"] is None) == bool(code)


def test_too_few_prompts_are_one_line(prompts, capsys):
    assert cli.main(["certify", "tiny", "--prompts", prompts, "--max-kl", "1", "-s", "passage"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "nbkv: 5 prompts are too few: 45 are needed (with none above max_kl) for rate=0.05, alpha=0.1 and 1 strategy "
        "(give more prompts, a larger rate or alpha, or fewer strategies)\n"
    )


def test_every_command_has_an_example_that_can_be_typed(capsys):
    from nbkv.cli import _EXAMPLES, _parser

    parser = _parser()
    (commands,) = [action for action in parser._actions if action.choices]
    assert set(_EXAMPLES) == set(commands.choices)
    for name, told in _EXAMPLES.items():
        parser.parse_args(shlex.split(told))
        with pytest.raises(SystemExit):
            cli.main([name, "-h"])
        assert "example: nbkv " in capsys.readouterr().out


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_list_fits_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    assert cli.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= columns
    for name in nbkv.strategies()["name"]:
        assert f"\n{name}  (" in f"\n{shown}"


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_table_of_runs_has_no_dicts_and_fits(tmp_path, monkeypatch, columns):
    from nbkv.cli.experiments import _table
    from nbkv.sweep import Run, Sweep

    monkeypatch.setenv("COLUMNS", str(columns))
    records = {"deep": {"a": 1, "b": [2]}, "many": [1, 2, 3], "pair": (1, 2), "rate": 0.123456789, "none": float("nan")}
    one = Run(path=tmp_path / "a-n=1.ipynb", notebook="a.ipynb", parameters={"n": 1}, records=records)
    shown = _table(Sweep(tmp_path, (one,)))
    assert max(map(len, shown.splitlines())) <= columns
    assert not set("{}[]") & set(shown)
    for told in ("2 values", "3 values", "0.1235", "a-n=1"):
        assert told in shown
