"""The strategy shown in CONTRIBUTING.md works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

TEXT = (Path(__file__).resolve().parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
USE = """
import sys, types
module = types.ModuleType("head")
sys.modules["head"] = module
exec(compile(sys.stdin.read(), "head.py", "exec"), module.__dict__)

import nbkv, torch
from nbkv.bench.models import make

bench = make("mini", torch.float32)
base = bench.ids(40, seed=0)
with nbkv.load(bench.model, tokenizer=bench.tokenizer, strategy="head(tokens=16)") as session:
    first = session.generate(bench.text(base + [1, 2]), max_new_tokens=4)
    again = session.generate(bench.text(base + [3, 4]), max_new_tokens=4)
    full = session.generate(bench.text(base + [3, 4]), max_new_tokens=4, strategy="full")
    assert (first.tokens.reused, again.tokens.reused, full.tokens.reused) == (0, 16, 0), again
    assert again.token_ids == full.token_ids
assert "head" in set(nbkv.strategies()["name"])
try:
    nbkv.load(bench.model, tokenizer=bench.tokenizer, strategy="head(tokens=-1)")
except nbkv.BadOption as error:
    assert "tokens=-1" in str(error)
else:
    raise AssertionError
"""


def test_the_worked_example_works():
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    done = subprocess.run([sys.executable, "-c", USE], input=code, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
