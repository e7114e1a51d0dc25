"""How commands answer: exit codes, lines, and the options that many of them share."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def add_place(one: argparse.ArgumentParser) -> None:
    """Let a command choose on what the model runs, and in which dtype."""
    one.add_argument("--device", default="auto", help="cpu, cuda or cuda:N (%(default)s)")
    one.add_argument("--dtype", default="auto", help="float32, bfloat16 or float16 (%(default)s)")


def say(text: str) -> None:
    """Write a line on standard output."""
    sys.stdout.write(text + "\n")


def width() -> int:
    """Return how many columns a line may have."""
    return max(40, shutil.get_terminal_size().columns)
