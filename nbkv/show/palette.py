"""The colours of everything that is drawn: one for each thing, the same everywhere, told apart by every kind of eye.

Okabe and Ito's palette (2008) with two greys, for its colours stay apart in protanopia, deuteranopia and tritanopia.
Where tokens came from has its darker half, which reaches 3:1 on white as on JupyterLab's dark ground; the parts of a
time have its brighter half, which does not on white: such areas are drawn with an ``EDGE``. Colour is never the only
sign: tokens have a letter and a line of their own kind, parts of a time their word and a hatching.
"""

from __future__ import annotations

from typing import NamedTuple

EDGE = "#6e6e6e"  # around bright areas; 3:1 on white and on dark
INK, PAPER = "#111111", "#ffffff"  # letters on a colour


class Shade(NamedTuple):
    """A thing's colour, the ink of letters on it, and the hatching (as plotly names it) that says the same."""

    colour: str
    ink: str
    hatching: str = ""

    def translucent(self, alpha: float) -> str:
        """Return the colour as a ground for text in the page's own colour."""
        red, green, blue = (int(self.colour[at : at + 2], 16) for at in (1, 3, 5))
        return f"rgba({red},{green},{blue},{alpha:g})"


PROVENANCE = {
    "PREFIX": Shade("#0072b2", PAPER),  # blue
    "CHUNK": Shade("#009e73", INK),  # bluish green
    "CORRECTED": Shade("#cc79a7", INK),  # reddish purple
    "RECOMPUTED": Shade("#d55e00", INK),  # vermilion
    "FRESH": Shade("#7b7e85", INK),  # a grey that deuteranopes tell from green and purple
    "DROPPED": Shade("#6e6e6e", PAPER, "x"),  # always struck through or hatched: the colour alone is near fresh
}
TIME = {
    "load": Shade("#56b4e9", INK),  # sky blue
    "select": Shade("#f0e442", INK, "/"),  # yellow
    "compute": Shade("#e69f00", INK),  # orange
    "decode": Shade("#c0c0c0", INK, "."),
}
# Lines and points of things that are neither, strategies for one, in this order; each has its name beside it as well.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#3a93cc", "#7b7e85")  # the fifth: a darker sky blue


def variables() -> str:
    """Return the palette as CSS variables: ``--nbkv-prefix``, …, ``--nbkv-load``, …, ``--nbkv-edge``."""
    named = {name.lower(): shade.colour for name, shade in (PROVENANCE | TIME).items()} | {"edge": EDGE}
    return "".join(f"--nbkv-{name}:{colour};" for name, colour in named.items())
