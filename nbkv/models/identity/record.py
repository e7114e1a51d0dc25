"""What the probe found out about a model, as plain data: kept between loads, so that nothing is proved twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from nbkv.models.capabilities import Capabilities


class RotaryPlace(NamedTuple):
    """Where a layer's rotary frequencies were found: a buffer's name or ``theta:<value>``, behind a minus if negative.

    ``pairing`` is of ``nbkv.rope``; the rotary dimensions of a key are ``[start, start + width)``.
    """

    source: str
    pairing: str
    start: int
    width: int


@dataclass(frozen=True)
class Record:
    """Capabilities, how the layers are reached and called, and how keys depend on position.

    ``layers`` is the name of the module that holds the layer list, the list's name in it, and what each layer returns
    (None: a tensor, else the length of its tuple); None if the model cannot be walked. ``places`` has one entry a
    layer; None if keys cannot be moved. ``seconds`` is how long the self-check took.
    """

    capabilities: Capabilities
    tells_positions: bool
    layers: tuple[str, str, tuple[int | None, ...]] | None
    places: tuple[RotaryPlace | None, ...] | None
    notes: tuple[str, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Return the record that ``to_dict`` gave, also after a way through JSON; else raises ``ValueError``."""
        try:
            known = dict(data["capabilities"])
            for field in fields(Capabilities):
                if isinstance(known[field.name], list):
                    known[field.name] = tuple(known[field.name])
            layers, places = data["layers"], data["places"]
            return cls(
                Capabilities(**known),
                bool(data["tells_positions"]),
                None if layers is None else (str(layers[0]), str(layers[1]), tuple(layers[2])),
                None if places is None else tuple(None if place is None else RotaryPlace(*place) for place in places),
                tuple(data["notes"]),
                float(data["seconds"]),
            )
        except (KeyError, TypeError, IndexError) as error:
            message = f"not a record of a model: {error!r}"
            raise ValueError(message) from error
