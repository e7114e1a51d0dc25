"""How tests wait: for what has to come, with an end for what never does, and no measure of speed.

A test that runs out of patience has found something that hangs: what works may take any time on a busy machine.
"""

from __future__ import annotations

import inspect
import time

PATIENCE_S = 600.0


def until(told, seconds=PATIENCE_S):
    """Return what ``told()`` returns once that is true."""
    end = time.monotonic() + seconds
    while not (found := told()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)
    return found


def hold(session, tokens, steps=3, sign=None):
    """Have answers of ``session`` go on slowly after so many tokens, and rest at twice as many until they are stopped.

    So that whoever is to stop one never comes too late. Long work rests after so many steps. The file ``sign`` is there
    as soon as something may be stopped. Returns the listener that does it.
    """
    import time
    from pathlib import Path

    seen = []

    def rest(seconds):
        if sign is not None:
            Path(sign).touch()
        end = time.monotonic() + seconds
        while not session._stopper.stopped and time.monotonic() < end:
            time.sleep(0.005)

    def listener(event):
        kind = type(event).__name__
        if kind == "Started":
            seen.clear()
        elif kind == "Token":
            seen.append(event)
            if len(seen) >= tokens:
                rest(0.2 if len(seen) < 2 * tokens else float("inf"))
        elif kind == "Advanced" and event.done >= steps and not event.over:
            rest(float("inf"))

    session.events.add(listener)
    return listener


HOLD = inspect.getsource(hold)  # for a kernel
