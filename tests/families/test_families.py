"""Every family transformers has, from its own auto-mapping: exact with `prefix`, or refused in one line."""

from __future__ import annotations

import pytest
import transformers
from shrinking import families
from survey import TABLE, survey

# transformers' own warnings about what is no business of ours
pytestmark = pytest.mark.filterwarnings("ignore")

# What transformers itself cannot make from a small config, or only with packages that nbkv does not need.
BUILT_BY_NOBODY = 45


@pytest.fixture(scope="module")
def table() -> dict[str, str]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    return {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}


@pytest.mark.parametrize("family", families())
def test_a_family_is_exact_or_refused_in_one_line(family, table):
    row = survey(family)

    assert "\n" not in row.line()
    assert row.served in {"prefix", "full", "refused", "not built"}
    if row.served != "prefix":
        assert row.why
    if f"transformers {transformers.__version__}:" in TABLE.read_text(encoding="utf-8"):
        served = table[family].split("|")[2].strip()
        assert served == row.served, "make tables writes docs/families.md anew"


def test_the_table_covers_the_mapping(table):
    names = set(families())

    assert names >= {"llama", "qwen3", "gemma3_text", "deepseek_v3", "gpt2", "bloom", "mamba"}
    assert len(names - set(table)) < BUILT_BY_NOBODY
    assert sum("| prefix |" in line for line in table.values()) >= 150
