"""BatchLLM: a batch of prompts planned as a whole, what they share computed and read once (arXiv 2412.03594)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from nbkv.context import Context, Request
from nbkv.families.batch.plan import planned
from nbkv.families.options import check, check_count
from nbkv.families.prefix.base import Prefix
from nbkv.stores.spec import parse_size
from nbkv.strategy import BatchPlan


@dataclass(kw_only=True, repr=False)
class SharedPrefixBatch(Prefix):
    """Group the prompts of ``session.generate_batch`` by what they share, and decode the groups together. Exact.

    ``width``: how many answers are decoded at a time, as far as memory allows; ``tokens``: how many tokens run in one
    pass, decoded ones first, the rest of new prompts; ``shared``: from how many tokens on a prefix is shared;
    ``memory``: what the prompts' own K/V may take, such as ``"2GiB"`` (None: as much as the store). What is shared is
    kept in the store afterwards, what is a prompt's own is not. A prompt asked for alone is continued like ``prefix``.
    """

    name: ClassVar[str] = "batch"
    paper: ClassVar[str] = "BatchLLM, arXiv 2412.03594"
    summary: ClassVar[str] = "plan many prompts as a whole, compute and read what they share once"

    width: int = 256
    tokens: int = 2048
    shared: int = 32
    memory: str | None = None

    def __post_init__(self) -> None:
        """Raise ``BadOption`` unless the numbers are at least 1 and ``memory`` is None or a size."""
        check_count(self, "width", "tokens", "shared", least=1)
        check(self, "memory", lambda size: size is None or isinstance(size, str), "None or a size such as '2GiB'")
        if self.memory is not None:
            parse_size(self.memory)

    def together(self, requests: Sequence[Request], ctx: Context) -> BatchPlan:
        """Return groups that share a prefix, as many of their sequences at a time as ``width`` and memory allow."""
        nbytes = ctx.store.limit if self.memory is None else parse_size(self.memory)
        return planned(requests, ctx, self.shared, width=self.width, tokens=self.tokens, nbytes=nbytes)
