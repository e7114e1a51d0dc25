"""Prefix caching at token granularity on a radix tree (RadixAttention; SGLang, arXiv 2312.07104, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nbkv.families.prefix import Prefix


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
