"""One token, two tokens: what is counted in a text for people goes through ``plural``."""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "nbkv"
APART = {"bench", "studies"}  # tables of their own, whose numbers are chosen there
NOUNS = (
    "block chunk core document entry eviction fallback layer line note pass passage prompt question request row run "
    "sequence span step thread token turn weight word"
)
# In a file, what stands before the noun and needs no singular: always several, a unit, or no number at all.
FINE = {
    "capabilities.py": "self.blockwise",
    "certificate.py": "self._n",
    "comparison.py": "comparison['repeat']",
    "badge.py": "n",
    "batch.py": "most, share(batch['hit_rate'])",
    "context.py": "tokens",
    "curves.py": "crowded.lines",
    "job.py": "len(prompt.ids), found.stable_context, room",
    "relay.py": "adapter.n_layers",
    "step_check.py": "text",
    "kvlink.py": "len(chunks)",
    "layout.py": "len(prompt.ids)",
    "log.py": "BLOCK",
    "needle.py": "keys",
    "probe.py": "len(ids)",
    "report.py": "MOST",
    "replay.py": "_short(row['size'])",
    "rerank.py": "self.ctx.adapter.n_layers, min(windows)",
    "result.py": "decoding['tokens_per_forward']",
    "reuse_checks.py": "n",
    "snapkv.py": "_AT_ONCE",
    "tokenmap.py": "LINE",
    "units.py": "_three_digits(value) if value < 10 else f'{value:,.0f}'",
    "writer.py": "MAX_LINES, chunks",
}


def several(noun):
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("ss") else f"{noun}s"


COUNTED = re.compile(
    rf"^ (?:(?!of|with|in|by|keeps|makes|FROM)\w+ ){{0,2}}?(?:{'|'.join(map(several, NOUNS.split()))})\b"
)


def unguarded(source):
    """Return what stands before a noun in the plural in the f-strings of ``source``, and is no text or share."""
    for node in ast.walk(ast.parse(source)):
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        for value, after in pairwise(parts):
            if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant) and COUNTED.match(after.value):
                yield ast.unparse(value.value)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_counted_may_be_one(path):
    if path.relative_to(PACKAGE).parts[0] not in APART:
        fine = FINE.get(path.name, "").split(", ")
        assert [found for found in unguarded(path.read_text(encoding="utf-8")) if found not in fine] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('f"copied {lease.copied} tokens of KV"', ["lease.copied"]),
        ('f"{n:,} stored entries"', ["n"]),
        ('f"of {total} passes"', ["total"]),
        ("f\"copied {plural(n, 'token')} of KV\"", []),
        ('f"{share} of the tokens"', []),
        ('f"{name} with chunks"', []),
    ],
)
def test_the_rule_sees_what_it_is_for(source, found):
    assert list(unguarded(source)) == found
