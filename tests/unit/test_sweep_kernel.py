from __future__ import annotations

import sys

from nbkv.sweep.kernel import ThisInterpreter


def test_kernels_of_a_sweep_are_this_interpreter_and_log_nothing_into_its_cell():
    spec = ThisInterpreter().kernel_spec
    assert spec.argv[0] == sys.executable
    assert "--log-level=50" in spec.argv  # that a kernel was interrupted to end it is logged as an error
    assert spec.env["NBKV_PANEL"] == "off"
