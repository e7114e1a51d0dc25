"""A token map as small data: its spans in columns, each column one string.

Notebooks are written with every value on a line of its own, which makes lists of small things large.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbkv.show.tokenmap import SOURCES, Segment

DITTO = '"'  # stands for the word before it


def columns(spans: Sequence[Segment]) -> dict[str, str]:
    """Return a letter for each span's source, where it stops, and what is known of it; empty columns are left out.

    Numbers stand apart by blanks, words by line feeds; a lone quotation mark is the word before it again. The first
    span begins at token 0, each other where one stops.
    """
    found = {
        "sources": "".join(SOURCES[span.source].letter for span in spans),
        "stops": " ".join(str(span.stop) for span in spans),
        "chunks": "\n".join(_ditto([_line(span.chunk) for span in spans])),
        "mixed": "\n".join(_letters(span.mixed) for span in spans),
        "deviation": " ".join("-" if span.deviation is None else f"{span.deviation:.2g}" for span in spans),
        "dropped": "".join("D" if span.dropped else "-" for span in spans),
    }
    return {name: column for name, column in found.items() if column.strip("- \n")}


def meanings(spans: Sequence[Segment]) -> dict[str, Any]:
    """Return what the letters mean that occur."""
    return {SOURCES[name].letter: SOURCES[name].meaning for name in SOURCES if name in {span.source for span in spans}}


def _letters(mixed: str) -> str:
    for name, look in SOURCES.items():
        mixed = mixed.replace(name, look.letter)
    return mixed.replace(" + ", "+").replace(" ", "")


def _ditto(names: list[str]) -> list[str]:
    """Return ``names`` with a mark in place of one that is the same as the one before."""
    return [DITTO if i and name and name == names[i - 1] else name for i, name in enumerate(names)]


def _line(name: str) -> str:
    return " ".join(name.split())
