"""Prefix caching at token granularity on a radix tree (RadixAttention; SGLang, arXiv 2312.07104, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nbkv.context import Context, Request
from nbkv.families.options import check
from nbkv.families.prefix.base import Prefix
from nbkv.scalars import is_whole
from nbkv.strategy import Prefilled


@dataclass(kw_only=True, repr=False)
class PrefixTree(Prefix):
    """Reuse the longest prefix any earlier prompt or answer left in the store. Exact; gives up nothing.

    ``segment``: of a model with recurrent layers, states are also kept every so many tokens of a prompt (None: as the
    store's size allows; 0: never).
    """

    name: ClassVar[str] = "prefix"
    paper: ClassVar[str] = "SGLang RadixAttention, arXiv 2312.07104"
    summary: ClassVar[str] = "continue the longest stored prefix, run only the rest"

    segment: int | None = None

    def __post_init__(self) -> None:
        """Raise ``BadOption`` unless ``segment`` is None or a number of tokens."""
        if self.segment is not None:
            check(self, "segment", is_whole, "None or a number of tokens >= 0")

    def every(self, n: int, ctx: Context) -> int:
        """Return ``segment``, or what the store's size allows."""
        return super().every(n, ctx) if self.segment is None else self.segment

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Continue the longest stored prefix; a note says where ``segment`` has no effect."""
        prefilled, states = super().prefill(request, ctx), ctx.adapter.capabilities.states
        if self.segment and states != "passes":
            why = (
                "its tokens behind a checkpoint are run one by one" if states else "its K/V can be cut behind any token"
            )
            prefilled.notes.append(f"segment plays no part with this model: {why}")
        return prefilled
