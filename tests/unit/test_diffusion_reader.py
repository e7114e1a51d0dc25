"""The bundled block-diffusion reader, as nbkv decodes it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import nbkv
from nbkv.tasks import ledger, report
from nbkv.tasks.evaluate import evaluate, is_correct

FOLDER = Path(nbkv.__file__).parent / "models" / "bundled" / "tiny-diffusion"


@pytest.fixture(scope="module", params=[4, 8])
def session(request):
    with nbkv.load("tiny-diffusion", device="cpu", block_size=request.param) as session:
        yield session


def test_it_is_small_plain_and_says_how_it_is_decoded(session):
    model = session.adapter.model
    assert model.num_parameters() <= 4_000_000
    assert sum(file.stat().st_size for file in FOLDER.glob("*.safetensors")) <= 8_000_000
    assert not list(FOLDER.glob("*.py"))
    config = model.config.to_dict()
    assert (config["model_type"], config["num_hidden_layers"]) == ("qwen3", 8)
    assert (config["block_size"], config["block_sizes"], config["nbkv_decoding"]) == (4, [4, 8], "block_diffusion")
    assert config["mask_token_id"] == session.tokenizer.mask_token_id
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_it_reads_ledgers_of_8_chunks(session):
    assert evaluate(session, ledger(seed=821, n=24, distance=0))["correct"].mean() >= 0.95


def test_it_reports(session):
    right = evaluate(session, report(seed=822, n=12, distance=0), max_new_tokens=144)["correct"]
    assert right.mean() >= 0.9


def test_confident_decoding_takes_fewer_passes_and_stops_at_the_end(session):
    item = report(seed=824, n=1, distance=0)[0]
    prompt = [*item.chunks, item.question]
    one, many = (
        session.generate(prompt, max_new_tokens=144, unmask=rule) for rule in ("static", "dynamic(threshold=0.9)")
    )
    assert one.finish_reason == many.finish_reason == "stop"
    assert is_correct(one.text, item.answers)
    assert many.decoding["forwards"] < 0.75 * one.decoding["forwards"]
