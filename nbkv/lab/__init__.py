"""The kernel's half of the JupyterLab panel: what sessions do, sent over a comm to who listens, and Stop and Clear.

Without the extension nothing is sent: a front end that does not know the comm closes it, one that does not care
(papermill) never answers, and states are sent only after somebody has answered.
"""

from __future__ import annotations

from nbkv.lab.comm import TARGET
from nbkv.lab.panel import CONTROL, Lab

__all__ = ["CONTROL", "TARGET", "Lab"]
