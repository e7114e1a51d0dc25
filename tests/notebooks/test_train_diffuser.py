"""The notebook that trains the block-diffusion reader, for a few steps."""

from __future__ import annotations

import json
from pathlib import Path

from nbkv.sweep import run

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "train_diffuser.ipynb"


def test_it_trains_goes_on_evaluates_and_leaves_a_model(tmp_path):
    work, out = tmp_path / "work", tmp_path / "reader"
    small = {"questions": 1, "lines": [3], "threads": 1, "device": "cpu", "work": str(work), "out": str(out)}
    for number, steps in enumerate((1, 3)):
        sweep = run(NOTEBOOK, small | {"steps": steps}, out_dir=tmp_path / f"run{number}")
        assert not sweep.failed, sweep.failed[0].error
        assert sweep.runs[0].records["steps"] == json.loads((work / "run.json").read_text())["step"] == steps
        assert 0 <= sweep.runs[0].records["report_3_block4_static"] <= 1
        assert 0 <= sweep.runs[0].records["ledger_3_block8_dynamic"] <= 1

    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert (config["block_size"], config["block_sizes"], config["mask_token_id"]) == (4, [4, 8], 4)
    assert config["nbkv_decoding"] == "block_diffusion"
    assert not {"auto_map", "attn_implementation", "_attn_implementation"} & set(config)
