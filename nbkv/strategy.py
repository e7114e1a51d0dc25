"""What a strategy is: four stages that all default to full recompute, so the base class is itself the reference."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch

from nbkv.context import Context, Request
from nbkv.errors import BadOption, UnsupportedModel, closest
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.base import SequenceCache
from nbkv.models.diffusion.block import Block, opened
from nbkv.models.work import Work
from nbkv.registry import strategies as registry
from nbkv.result import Provenance
from nbkv.scalars import kind_of
from nbkv.specs import Spec, read
from nbkv.stores.base import Lease

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Declined(NamedTuple):
    """Reuse that was possible and was not made: why, and the seconds that it was expected to save (below 0: cost)."""

    why: str
    seconds: float


@dataclass(kw_only=True)
class Prefilled:
    """A prefilled prompt: the cache holds its K/V, ``logits`` ``[V]`` are those after its last token.

    Of a block-diffusion model the cache holds the prompt's whole blocks, and ``logits`` are those of the last row that
    ran (empty, if none had to). ``provenance`` uint8 ``[n_prompt]`` says where each token's K/V came from, ``kept``
    bool ``[n_prompt]`` which tokens an eviction has left (None: all), ``deviation`` float32 ``[n_prompt]`` the distance
    of each token's fresh K/V from the cached (nan: not compared). ``rows`` and ``select`` count the token-layers run,
    ``load_s`` and ``select_s`` are seconds. ``decode`` counts what the answer's passes run, ``decoded`` how many tokens
    of it they ran, each counted once. ``lease`` is that of the store. ``own`` is the strategy's own state for its
    later stages, ``figures`` its statistics of decoding, for ``result.decoding``. ``extra`` rows of the cache are no
    tokens of the prompt, whose own are at ``places`` ``[n_prompt]`` (None: the first ones); the answer's positions come
    after them all. ``by`` is the strategy that served the request, where one routes requests to others.
    """

    cache: SequenceCache
    logits: torch.Tensor
    provenance: NDArray[np.uint8]
    kept: NDArray[np.bool_] | None = None
    deviation: NDArray[np.float32] | None = None
    rows: Work = field(default_factory=Work)
    select: Work = field(default_factory=Work)
    decode: list[Work] = field(default_factory=list)
    decoded: int = 0
    load_s: float = 0.0
    select_s: float = 0.0
    notes: list[str] = field(default_factory=list)
    lease: Lease | None = None
    own: Any = None
    figures: dict[str, Any] = field(default_factory=dict)
    extra: int = 0
    places: NDArray[np.int64] | None = None
    by: Strategy | None = None
    declined: Declined | None = None


@dataclass(frozen=True)
class RequestGroup:
    """Requests of a batch, by index in the order they begin, whose prompts share their first ``shared`` tokens."""

    shared: int
    members: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """How the requests of a batch run: ``groups`` together, in order, then those ``alone`` one by one.

    At most ``width`` sequences are under way at a time, at most ``tokens`` of their tokens run in one pass, and what is
    their own takes at most ``nbytes`` bytes of K/V, if there is more than one. ``why`` says what keeps requests alone.
    """

    groups: tuple[RequestGroup, ...] = ()
    alone: tuple[int, ...] = ()
    width: int = 1
    tokens: int = 1
    nbytes: int = 0
    why: str = ""


@dataclass(kw_only=True)
class Strategy:
    """Full recompute: nothing is taken from a store and nothing is kept.

    A subclass that sets ``name`` is registered. Its options are its dataclass fields; it overrides the stages it
    changes. ``needs`` lists what the model must have, as attributes of ``Capabilities`` that must be true; ``aliases``
    are other names of options, as papers have them. ``places``: it takes K/V to other positions than they had.
    ``in_some_layers``: rows that it runs again keep what was stored in the other layers.
    """

    name: ClassVar[str] = ""
    family: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    exact: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ()
    contract_exempt: ClassVar[dict[str, str]] = {}
    aliases: ClassVar[dict[str, str]] = {}
    places: ClassVar[bool] = False
    in_some_layers: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401  (as dataclasses have it)
        """Register a class that names itself."""
        super().__init_subclass__(**kwargs)
        if cls.__dict__.get("name"):
            registry.add(cls.name, cls)

    def __repr__(self) -> str:
        """Return ``spec``."""
        return self.spec

    @property
    def spec(self) -> str:
        """Return the specification of this strategy: its name and the options that differ from their defaults."""
        changed = [
            f"{option.name}={getattr(self, option.name)!r}"
            for option in fields(self)
            if getattr(self, option.name) != _default(option)
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name

    def check(self, adapter: ModelAdapter) -> None:
        """Raise ``UnsupportedModel`` if ``adapter`` lacks what this strategy needs."""
        for need in self.needs:
            if not getattr(adapter.capabilities, need):
                works = "full and prefix work" if need != "prefix" and adapter.capabilities.prefix else "full works"
                reason = adapter.capabilities.why_not(need)
                message = f"{self.name} cannot serve {adapter.name}: {reason} ({works})"
                raise UnsupportedModel(message)

    def at_full_budget(self) -> Strategy | None:
        """Return this strategy with a budget at which it must equal full; None if it has none."""
        return self

    def prefill(self, request: Request, ctx: Context) -> Prefilled:
        """Run the prompt and return its cache, last logits and provenance."""
        cache = ctx.adapter.new_cache(len(request.ids) + request.max_new_tokens)
        rows = ctx.work()
        logits = ctx.adapter.prefill(request.ids, cache, work=rows)
        provenance = np.full(len(request.ids), Provenance.FRESH, dtype=np.uint8)
        return Prefilled(cache=cache, logits=logits, provenance=provenance, rows=rows)

    def together(self, requests: Sequence[Request], ctx: Context) -> BatchPlan:  # noqa: ARG002
        """Return how the ``requests`` of a batch run: one by one as they are given, unless a strategy plans them."""
        return BatchPlan(alone=tuple(range(len(requests))))

    def decoding(self, prefilled: Prefilled, ctx: Context) -> AbstractContextManager[object]:  # noqa: ARG002
        """Return the context manager of whatever is attached to the model while the answer is decoded."""
        return nullcontext()

    def step(self, token: int, at: int, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Run one decoded ``token`` at position ``at`` and return the logits ``[V]`` after it."""
        return ctx.adapter.forward(ctx.adapter.tensor([token]), prefilled.cache, start=at, work=work)[-1]

    @property
    def decodes_plainly(self) -> bool:
        """Whether an answer's tokens are run as the model runs them: several in one pass are then the same."""
        mine, plain = type(self), Strategy
        return mine.step is plain.step and mine.decoding is plain.decoding

    def denoise(self, block: Block, prefilled: Prefilled, ctx: Context, work: Work | None = None) -> torch.Tensor:
        """Run one pass over ``block`` of a block-diffusion model; return the logits ``[B, V]`` of its rows' own tokens.

        The cache holds the clean blocks before this one, and is left as it was.
        """
        more: dict[str, Any] = {"conditioning": block.conditioning, "work": work}
        return ctx.adapter.denoise(block.ids, prefilled.cache, start=block.start, **more)

    def opening(self, prefilled: Prefilled, request: Request, ctx: Context) -> torch.Tensor:
        """Return the logits ``[V]`` of the answer's first token; in a block-diffusion model those of its first pass."""
        recipe, ids = ctx.adapter.recipe, request.ids
        if ctx.adapter.canvas is not None:
            return self.denoise(ctx.adapter.canvas.opened(len(ids)), prefilled, ctx)[0]
        if recipe is None or (recipe.shifted and len(ids) % recipe.block == 0):
            return prefilled.logits
        block = opened(ids, recipe, ctx.adapter.device)
        return self.denoise(block, prefilled, ctx)[len(ids) - block.start]

    def commit(self, prefilled: Prefilled, ids: Sequence[int], request: Request, ctx: Context) -> None:
        """Keep K/V of ``ids``, prompt and answer, for later requests; the last token may have none in the cache yet."""


def parse(spec: str | Strategy) -> Strategy:
    """Return the strategy that ``spec`` such as ``"prefix"`` or ``"name(option=value)"`` names; an object as it is.

    Raises ``UnknownName`` and ``BadOption``.
    """
    if isinstance(spec, Strategy):
        return spec
    try:
        written = read(spec)
    except ValueError as error:
        message = f"not a strategy: {spec!r} (accepted: name, name(option=value) with plain values, a Strategy object)"
        raise BadOption(message) from error
    cls = registry.get(written.name)
    options = _options(cls, written, spec)
    try:
        strategy: Strategy = cls(**options)
    except BadOption:
        raise
    except (TypeError, ValueError) as error:
        message = f"{spec!r}: {error}"
        raise BadOption(message) from error
    return strategy


def split(specs: str | Strategy | Sequence[str | Strategy]) -> list[str | Strategy]:
    """Return the strategies named in ``specs``; a string is split at commas outside brackets.

    Raises ``BadOption`` for what is neither text, a Strategy nor a list.
    """
    if isinstance(specs, Strategy):
        return [specs]
    if not isinstance(specs, str):
        given: object = specs
        if not isinstance(given, Sequence) or isinstance(given, (bytes, bytearray)):
            message = f"strategies is {kind_of(given)} (accepted: a list of names or Strategy objects, or 'one, other')"
            raise BadOption(message)
        return list(specs)
    parts, depth = [""], 0
    for char in specs:
        depth += (char in "([") - (char in ")]")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return [part.strip() for part in parts if part.strip()]


def _options(cls: type[Strategy], written: Spec, spec: str) -> dict[str, Any]:
    known = [option.name for option in fields(cls)]
    values, options = written.values, written.options
    if len(values) > 1 or (values and not known):
        message = f"{spec!r}: at most one value without a name (options: {', '.join(known) or 'none'})"
        raise BadOption(message)
    if values:
        options = {known[0]: values[0]} | options
    options = {cls.aliases.get(name, name): value for name, value in options.items()}
    for name in options:
        if name not in known:
            message = (
                f"unknown option {name!r} in {spec!r}{closest(name, known)} (options: {', '.join(known) or 'none'})"
            )
            raise BadOption(message)
    return options


def _default(option: Any) -> object:  # noqa: ANN401  (as dataclasses have it)
    return option.default_factory() if option.default_factory is not MISSING else option.default
