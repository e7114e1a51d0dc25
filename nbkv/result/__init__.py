"""What a request gives back: plain data that knows how to count itself and how to be shown."""

from nbkv.result.chunk import Chunk
from nbkv.result.comparison import Comparison
from nbkv.result.figures import Compute, Fidelity, Timing, Tokens
from nbkv.result.provenance import Provenance, runs
from nbkv.result.result import Explains, Result

__all__ = [
    "Chunk",
    "Comparison",
    "Compute",
    "Explains",
    "Fidelity",
    "Provenance",
    "Result",
    "Timing",
    "Tokens",
    "runs",
]
