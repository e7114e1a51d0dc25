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
FEW = "more than a limit of one or more"
CONSTANT = "a number of the code itself, above one"
# In a file, what stands before the noun and needs no singular, and why.
FINE = {
    "context.py": {"tokens": FEW},
    "models/probing/probe.py": {"len(ids)": CONSTANT},
    "session/certificates/certificate.py": {"self._n": "one of them repeats another: there are two"},
    "session/reranking/layout.py": {"len(prompt.ids)": FEW},
    "session/search/job.py": {"len(prompt.ids)": FEW, "found.stable_context": "where longrope switches: thousands"},
    "session/verification/reuse_checks.py": {"n": "of prompts that the self-check makes, of many tokens"},
    "show/badge.py": {"n": "one has words of its own"},
    "show/batch.py": {"most": "more than the least"},
    "show/comparison.py": {"comparison['repeat']": "one has words of its own"},
    "show/curves.py": {"crowded.lines": FEW},
    "show/replay.py": {"_short(row['size'])": "one has words of its own"},
    "show/result.py": {"decoding['tokens_per_forward']": "with two decimals"},
    "show/tokenmap.py": {"LINE": CONSTANT},
    "show/units.py": {
        "_three_digits(value) if value < 10 else f'{value:,.0f}'": "a rate, with decimals where it is low"
    },
    "strategies/kvlink.py": {"len(chunks)": FEW},
    "strategies/relay.py": {"adapter.n_layers": "wrong for a model of one layer, of which nobody chooses layers"},
    "strategies/snapkv.py": {"_AT_ONCE": CONSTANT},
    "tasks/report.py": {"MOST": CONSTANT},
    "tasks/steps/step_check.py": {"text": "no number"},
    "tasks/writer.py": {"MAX_LINES": CONSTANT, "chunks": "an option as it was given"},
    "traces/log.py": {"BLOCK": CONSTANT},
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


@pytest.mark.parametrize("name", [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))])
def test_what_is_counted_may_be_one(name):
    if name.partition("/")[0] not in APART:
        assert {*unguarded((PACKAGE / name).read_text(encoding="utf-8"))} == {*FINE.get(name, {})}


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
