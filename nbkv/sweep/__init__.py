"""Experiments: notebooks run with parameters, the values they record, and the table and page made from them."""

from __future__ import annotations

from nbkv.sweep.folder import report
from nbkv.sweep.plan import read_grid
from nbkv.sweep.records import record
from nbkv.sweep.runs import Run, Sweep
from nbkv.sweep.schedule import run

__all__ = ["Run", "Sweep", "read_grid", "record", "report", "run"]
