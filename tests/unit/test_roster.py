"""Long work that no session does: told step by step, stopped between steps, and one quiet line where interrupted."""

import json
from pathlib import Path

import pytest
from huggingface_hub import file_download
from huggingface_hub.utils import tqdm as hub_bar
from transformers import modeling_gguf_pytorch_utils as gguf
from transformers.utils import logging

import nbkv
from nbkv.models.pretrained.reading_bar import MOST, own_bars
from nbkv.roster import LOADING_STEPS, bus, loading, process_work, running
from nbkv.show.progress import screen
from nbkv.stopping import Stopped


@pytest.fixture
def told(monkeypatch):
    """What was told, in place of a screen."""
    heard = []
    monkeypatch.setattr(screen, "shown_by", heard.append)
    return heard


@pytest.fixture
def folder(tmp_path, model_of, tokenizer):
    model_of("llama").save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    return tmp_path / "small"


def test_loading_tells_its_stages_and_every_weight(told, folder, model_of):
    nbkv.load(folder).close()
    *steps, last = told
    tensors = len(model_of("llama").state_dict())

    assert {event.work for event in told} == {f"load {folder.name}"}
    doing = [event.doing for event in steps]
    assert doing[0] == "reading weights"
    assert f"loading weights, {tensors} of {tensors}" in doing
    assert doing[-3:-1] == ["reading the tokenizer", "taking its fingerprint"]
    assert doing[-1].startswith("proving")
    assert [event.done for event in steps] == sorted(event.done for event in steps)
    assert last.over
    assert last.done == last.total == LOADING_STEPS + min(MOST, tensors)
    assert not running()
    json.dumps([event.to_dict() for event in told])


def test_a_load_that_was_proved_before_proves_nothing_again(told, folder):
    nbkv.load(folder).close()
    told.clear()
    nbkv.load(folder).close()
    assert not [event for event in told if event.doing.startswith("proving") and not event.over]
    assert told[-2].doing == "running its first token"
    assert told[-1].done == told[-1].total


def test_a_given_model_is_told_to_be_proved(told, model_of, tokenizer):
    nbkv.load(model_of("llama"), tokenizer=tokenizer).close()
    assert [event.doing.split()[0] for event in told] == ["proving", "proving"]


def test_who_wants_no_bars_gets_none(told, folder):
    logging.disable_progress_bar()
    try:
        nbkv.load(folder).close()
    finally:
        logging.enable_progress_bar()
    assert told == []


@pytest.mark.parametrize("at", ["reading weights", "loading weights", "reading the tokenizer", "proving"])
def test_a_stop_ends_loading_in_one_line(monkeypatch, folder, at):
    def listener(event):
        if event.doing.startswith(at) and not event.over:
            running()[-1].stop()

    monkeypatch.setattr(screen, "shown_by", listener)
    with pytest.raises(KeyboardInterrupt) as raised:
        nbkv.load(folder)
    (line,) = raised.value._render_traceback_()
    assert line.startswith("KeyboardInterrupt: stopped after ")
    assert f": {at}" in line
    assert not running()
    assert logging.set_tqdm_hook(None) is None  # nothing of ours is left behind


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_failed_load_is_over_and_not_done(told, folder, broken):
    (folder / broken).write_text("{")
    with pytest.raises(nbkv.LoadError):
        nbkv.load(folder)
    assert told[-1].over
    assert told[-1].done < told[-1].total
    assert not running()


def test_work_within_work_is_the_outer_one(told):
    with process_work("load x", 2) as outer, process_work("load y", 9) as inner:
        inner.step("importing")
    assert inner is outer
    assert [event.work for event in told] == ["load x", "load x"]


def test_a_ctrl_c_is_one_quiet_line():
    def interrupted():
        with process_work("run", 3) as work:
            work.step("first")
            work.step("second")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        interrupted()
    assert raised.value._render_traceback_() == ["KeyboardInterrupt: stopped after 1 of 3 steps (run: second)"]


BARS = {
    "download": lambda: file_download._get_progress_bar_context(
        desc="model.safetensors", log_level=20, total=5_000_000, name="huggingface_hub.http_get"
    ),
    "files": lambda: vars(__import__("huggingface_hub._snapshot_download", fromlist=["x"]))["hf_tqdm"](
        total=3, desc="Fetching 3 files"
    ),
    "gguf": lambda: gguf.tqdm(total=7, desc="Converting and de-quantizing GGUF tensors..."),
    "weights": lambda: logging.tqdm(total=250, desc="Loading weights"),
}
WORDS = {
    "download": "downloading model.safetensors, 5.00 MB of 5.00 MB",
    "files": "fetching 3 files, 3 of 3",
    "gguf": "converting and de-quantizing GGUF tensors, 7 of 7",
    "weights": "loading weights, 250 of 250",
}


@pytest.mark.parametrize("kind", BARS)
def test_every_bar_of_others_is_ours_while_a_model_is_read(told, capsys, kind):
    known = hub_bar, gguf.tqdm
    with process_work("load x", LOADING_STEPS) as work, own_bars(work):
        work.step("reading weights")
        with BARS[kind]() as bar:
            for _ in range(bar.total // max(1, bar.total // 7)):
                bar.update(max(1, bar.total // 7))
            bar.update(bar.total - bar.n)
    assert WORDS[kind] in [event.doing for event in told]
    steps = min(MOST, bar.total)
    assert told[-2].done == steps
    assert told[-1].total == LOADING_STEPS + steps
    assert capsys.readouterr() == ("", "")
    assert (file_download._get_progress_bar_context.__globals__["tqdm"], gguf.tqdm) == known


def test_a_bar_stops_where_its_work_is_stopped():
    with process_work("load x", 1) as work, own_bars(work):
        bar = logging.tqdm(range(10), desc="Loading weights", mininterval=0)
        work.stop()
        with pytest.raises(Stopped):
            list(bar)


def test_nothing_is_built_where_nobody_listens(monkeypatch):
    monkeypatch.setattr(bus, "_listeners", [])
    with process_work("load x", 1) as work:
        work.step("a")
    assert work.done == 1


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("tiny", "load tiny"),
        ("/a/path/to/qwen2.5-coder-0.5b/", "load qwen2.5-coder-0.5b"),
        (Path("models/model.gguf"), "load model.gguf"),
        ("HuggingFaceTB/SmolLM2-135M", "load SmolLM2-135M"),
        (object(), "load object"),
        ("/", "load /"),
    ],
)
def test_loading_is_called_by_the_last_part_of_a_path(model, name):
    assert loading(model) == name
