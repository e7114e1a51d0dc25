"""In which order the requests of a stream are served: as they come, or those first whose K/V are there.

KVShare (arXiv 2503.16525, section 4.4) serves waiting requests by their KV hit rate, those of similar rates together.
Nothing in it keeps a request that reuses nothing from waiting forever; here each is overtaken in so many waves only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import TypeVar

from nbkv.errors import BadOption, closest
from nbkv.specs import read

T = TypeVar("T")


@dataclass(frozen=True)
class AsGiven:
    """All requests in one wave, as they were given."""

    def waves(self, arriving: Iterable[T], reuse: Callable[[T], float]) -> Iterator[list[T]]:  # noqa: ARG002
        """Yield everything at once."""
        if given := list(arriving):
            yield given


@dataclass(frozen=True)
class HitRateOrder:
    """Waves of ``wave`` requests: of ``window`` that wait, those with the highest hit rate.

    Who has been passed over in ``patience`` waves goes before all others, the oldest first. So a request waits for at
    most ``patience`` + ``window`` / ``wave`` waves, whatever comes after it.
    """

    window: int = 32
    wave: int = 8
    patience: int = 4

    def __post_init__(self) -> None:
        """Raise ``BadOption`` unless all are whole numbers, patience from 0 on and the others from 1 on."""
        for option in fields(self):
            value, least = getattr(self, option.name), 0 if option.name == "patience" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                message = f"{option.name}={value!r} is not accepted: {option.name} is a whole number >= {least}"
                raise BadOption(message)

    def waves(self, arriving: Iterable[T], reuse: Callable[[T], float]) -> Iterator[list[T]]:
        """Yield who is served next; ``reuse`` is asked anew for each wave, as the one before has left its K/V."""
        source, waiting = iter(arriving), list[tuple[int, T]]()
        while True:
            waiting += [(0, each) for each in islice(source, self.window - len(waiting))]
            if not waiting:
                return
            late = [at for at, (passed, _) in enumerate(waiting) if passed >= self.patience]
            others = [at for at in range(len(waiting)) if at not in set(late)]
            rates = {at: reuse(waiting[at][1]) for at in others}
            chosen = {*[*late, *sorted(others, key=lambda at: -rates[at])][: self.wave]}
            wave = [waiting[at][1] for at in sorted(chosen)]
            waiting = [(passed + 1, each) for at, (passed, each) in enumerate(waiting) if at not in chosen]
            yield wave


Schedule = AsGiven | HitRateOrder


def schedule_of(spec: str | None) -> Schedule:
    """Return the schedule that ``spec`` names: None, ``"hits"`` or ``"hits(window=32, wave=8, patience=4)"``."""
    if spec is None:
        return AsGiven()
    known, accepted = (
        [option.name for option in fields(HitRateOrder)],
        "None, 'hits' or 'hits(window=, wave=, patience=)'",
    )
    try:
        written = read(spec)
    except ValueError:
        written = None
    if written is None or written.name != "hits" or written.values:
        message = f"schedule={spec!r} is not accepted: schedule is {accepted}"
        raise BadOption(message)
    for name in written.options:
        if name not in known:
            message = f"unknown option {name!r} in {spec!r}{closest(name, known)} (options: {', '.join(known)})"
            raise BadOption(message)
    return HitRateOrder(**written.options)  # type: ignore[arg-type]  # checked there
