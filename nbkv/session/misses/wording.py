"""Texts of misses as people read them: short, in quotes, with what was left out marked."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 160  # characters of a text that differs


def words(pieces: Sequence[str]) -> str:
    """Return the first pieces, told apart."""
    return " | ".join(piece.strip() or repr(piece) for piece in pieces[:3])


def visible(text: str) -> str:
    """Return ``text`` in quotes, cut; empty where there is nothing to see."""
    said = " ".join(text.split())
    return repr(_first(said)) if said else ""


def _first(words: str) -> str:
    return words if len(words) <= SHOWN // 2 else f"{words[: SHOWN // 2]}…"


def middle(text: str) -> str:
    """Return ``text`` without its middle where it is long."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}…{text[-SHOWN // 2 :]}"
