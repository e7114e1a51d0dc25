"""The first thing a newcomer runs, as ``nbkv demo`` runs it: on the bundled model, without a GPU or a hub."""

from __future__ import annotations

import re

import nbformat
import pandas as pd
import pytest

from nbkv import cli
from nbkv.models.pretrained.packages import PACKAGED, whereabouts


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run the demo once; return its folder and what it said."""
    folder, said = tmp_path_factory.mktemp("demo"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.experiments, "say", said.append)
        assert cli.main(["demo", "-o", str(folder)]) == 0
    return folder, "\n".join(said)


def test_reuse_is_real(demo):
    row = pd.read_csv(demo[0] / "results.csv").iloc[0]
    assert row["status"] == "ok"
    assert row["identical"]
    assert 0.9 < row["hit_rate"] < 1
    assert row["ttft_reuse_s"] > 0
    assert row["speedup"] == pytest.approx(row["ttft_full_s"] / row["ttft_reuse_s"], rel=0.01)


def test_the_bundled_reader_answers_right(demo):
    assert pd.read_csv(demo[0] / "results.csv").iloc[0]["correct"] >= 0.75


def test_the_table_shows_hit_rate_times_and_the_report(demo):
    folder, said = demo
    row = pd.read_csv(folder / "results.csv").iloc[0]
    assert re.search(rf"hit rate +{row['hit_rate']:.1%}", said)
    assert re.search(rf"in full \(s\) +{row['ttft_full_s']:.3f}", said)
    assert re.search(rf"with reuse \(s\) +{row['ttft_reuse_s']:.3f}", said)
    assert said.endswith(f"report: {folder / 'report.html'}")


def test_the_report_shows_the_plots(demo):
    page = (demo[0] / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") >= 3
    assert "Plotly.newPlot(" in page or "<svg" in page


def test_another_seed_and_a_shorter_answer_run_too(tmp_path, capsys):
    given = ["-p", "seed", "3", "-p", "max_new", "4", "-p", "chat_model", "tiny"]
    code = cli.main(["run", str(cli.experiments.quickstart()), *given, "-o", str(tmp_path)])
    row = pd.read_csv(tmp_path / "results.csv").iloc[0]
    assert code == 0, capsys.readouterr().err
    assert (row["seed"], row["max_new"]) == (3, 4)
    assert row["identical"]


def test_each_question_leaves_one_small_output_and_reads_less(demo):
    (path,) = demo[0].glob("*.ipynb")
    asked = [cell for cell in nbformat.read(path, as_version=4).cells if cell.source.startswith("%%kvgen")]
    assert {len(cell.outputs) for cell in asked} == {1}
    shown = [cell.outputs[0].data for cell in asked]
    assert all("nbkv-map" in data["text/html"] and len(data["text/html"]) < 60_000 for data in shown)
    fresh = [int(re.search(r"([\d,]+) fresh", data["text/plain"])[1].replace(",", "")) for data in shown]
    assert 800 < fresh[0] < 1_200
    assert fresh[1] == 0
    assert 0 < fresh[2] < 20


def test_the_notebook_is_short_clean_and_has_parameters():
    notebook = nbformat.read(cli.experiments.quickstart(), as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 16
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert [cell.metadata.get("tags") for cell in code].count(["parameters"]) == 1


def chat_of(folder):
    (path,) = folder.glob("*.ipynb")
    (cell,) = (cell for cell in nbformat.read(path, as_version=4).cells if cell.get("id") == "chat")
    return "".join(output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout")


def test_the_bundled_model_talks_in_the_demo(demo):
    row = pd.read_csv(demo[0] / "results.csv").iloc[0]
    assert row["chat_model"] == "tiny"
    assert row["chat_hit_rate"] > 0.5
    assert chat_of(demo[0]).count("tokens reused") == 3


def test_without_a_pretrained_model_it_says_how_to_get_one_and_goes_on(tmp_path, capsys):
    missing = str(tmp_path / "none.gguf")
    code = cli.main(
        ["run", str(cli.experiments.quickstart()), "-p", "chat_model", missing, "-o", str(tmp_path / "out")]
    )
    assert code == 0, capsys.readouterr().err
    assert pd.read_csv(tmp_path / "out" / "results.csv").iloc[0]["chat_model"] == "tiny"
    assert "none.gguf" in chat_of(tmp_path / "out")


@pytest.mark.slow
def test_a_real_model_talks_where_it_is_there(tmp_path, capsys):
    where = whereabouts(PACKAGED["smollm2"])
    if where.startswith("not here"):
        pytest.skip(f"smollm2 is {where}")
    code = cli.main(["run", str(cli.experiments.quickstart()), "-o", str(tmp_path)])
    assert code == 0, capsys.readouterr().err
    row = pd.read_csv(tmp_path / "results.csv").iloc[0]
    assert row["chat_model"] == "smollm2"
    assert row["chat_hit_rate"] > 0.5
    assert chat_of(tmp_path).count("tokens reused") == 3
