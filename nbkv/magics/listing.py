"""What ``%kvlist`` shows: strategies, open sessions, models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbkv.show import table_html, table_text
from nbkv.show.page import view

if TYPE_CHECKING:
    from nbkv.magics.sessions import Sessions


@dataclass(frozen=True)
class WordTable:
    """Words in rows and columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Listing:
    """Tables, one below the other."""

    tables: tuple[WordTable, ...]

    def __repr__(self) -> str:
        """Return the tables as text."""
        return "\n\n".join(
            f"{table.title}\n{table_text(table.columns, table.rows, left=range(len(table.columns)))}"
            for table in self.tables
        )

    def _repr_html_(self) -> str:
        tables = (
            table_html(table.columns, table.rows, caption=table.title, left=range(len(table.columns)))
            for table in self.tables
        )
        return view("".join(tables), "list")


def listing(sessions: Sessions) -> Listing:
    """Return what there is to choose from now."""
    import nbkv  # noqa: PLC0415  (torch comes with strategies and models)
    from nbkv.models.pretrained.packages import PACKAGED, whereabouts  # noqa: PLC0415
    from nbkv.models.pretrained.source import bundled  # noqa: PLC0415

    known = nbkv.strategies()
    strategies = WordTable(
        "Strategies", tuple(map(str, known.columns)), tuple(tuple(map(str, row)) for row in known.values)
    )
    found = [(name, sessions.get(name)) for name in sessions.names]
    rows = tuple(
        (f"{name}{' (current)' if name == sessions.current_name else ''}", session.model_name, str(session.strategy))
        for name, session in found
    )
    where = [(name, "bundled") for name in bundled()] + [(name, whereabouts(one)) for name, one in PACKAGED.items()]
    models = WordTable("Models", ("model", "where"), tuple(where))
    return Listing((strategies, WordTable("Sessions", ("session", "model", "strategy"), rows), models))
