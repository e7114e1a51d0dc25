"""How tests wait: for what has to come, with an end for what never does, and no measure of speed.

A test that runs out of patience has found something that hangs: what works may take any time on a busy machine.
"""

from __future__ import annotations

import inspect
import time

PATIENCE_S = 30.0


def until(told, seconds=PATIENCE_S):
    """Return what ``told()`` returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := told()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)
    return found


def hold(session, tokens, sign=None):
    """Have each answer of ``session`` rest at so many tokens until it is stopped, and long work after its third step.

    So that whoever is to stop it never comes too late; the file ``sign`` is there as soon as something rests. Returns
    the listener that does it.
    """
    import time  # noqa: PLC0415  (a kernel is given this function alone)
    from pathlib import Path  # noqa: PLC0415

    seen = []

    def rest():
        if sign is not None:
            Path(sign).touch()
        while not session._stopper.stopped:
            time.sleep(0.005)

    def listener(event):
        kind = type(event).__name__
        if kind == "Started":
            seen.clear()
        elif kind == "Token":
            seen.append(event)
            if len(seen) >= tokens:
                rest()
        elif kind == "Advanced" and event.done >= 3 and not event.over:
            rest()

    session.events.add(listener)
    return listener


HOLD = inspect.getsource(hold)  # for a kernel
