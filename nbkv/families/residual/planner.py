"""The restore planner: what each form costs on this model, device and link, measured now, and which one to take.

The choice is the fastest exact form among those that leave at least half of the K/V's memory on the device free. Forms
may differ from layer to layer: ``first(m)`` computes the lower layers again and keeps the K/V of the others, ``mix(m)``
projects some layers while those between them are loaded, as many as lets both finish together (HCache, arXiv
2410.05004, section 4.2). How many comes from the times of the pure forms; what is then compared is measured.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from nbkv.errors import BadOption, UnsupportedModel
from nbkv.families.residual.bandwidth import Bandwidths, rates
from nbkv.families.residual.forms import ID_BYTES, LATENT, Form, parse
from nbkv.families.residual.sequence import BoundedSequence
from nbkv.models.adapter import ModelAdapter
from nbkv.models.passes import layer_calls
from nbkv.models.probing.prompt import made_up_ids
from nbkv.models.projection.project import CapturingCache
from nbkv.scalars import is_whole
from nbkv.show.units import plural
from nbkv.timing import settle, timed

MOST = 0.5  # of the K/V's bytes: the most a form that is picked may take on the device
_REPEAT = 3
_FINALISTS = 3  # pure forms that are timed again beside the mixtures


@dataclass(frozen=True, kw_only=True)
class FormCost:
    """One form: bytes a token takes in all and on the device, and the seconds to restore every layer once.

    ``seconds`` is None where the form is ``refused``, with the reason, or was not timed yet.
    """

    form: str
    exact: bool
    token_bytes: int
    device_bytes: int
    seconds: float | None = None
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What it costs to hold ``tokens`` older tokens in each form, and the ``pick``.

    ``kv_bytes`` are those of one token's K/V. Every decoded token waits for a restoration, besides its own pass. Where
    it was ``stopped`` (how far it came; else "") ``rates`` may be None, ``seconds`` missing, and nothing is picked.
    """

    model: str
    device: str
    dtype: str
    tokens: int
    kv_bytes: int
    rates: Bandwidths | None
    ways: tuple[FormCost, ...]
    pick: str
    stopped: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-able data."""
        return {"kind": "plan"} | asdict(self)

    def __repr__(self) -> str:
        """Return the table as text."""
        return str(importlib.import_module("nbkv.show").plan_text(self.to_dict()))

    def _repr_html_(self) -> str:
        return str(importlib.import_module("nbkv.show").plan_html(self.to_dict()))


def plan(adapter: ModelAdapter, tokens: int = 1024) -> Plan:
    """Measure every form on ``tokens`` made-up older tokens, and pick. Raises ``UnsupportedModel``, ``BadOption``."""
    work = Planning(adapter, tokens)
    for _ in work.steps():
        pass
    return work.plan()


class Planning:
    """A plan in the making: ``steps`` measures, ``plan`` is what there is so far."""

    work = "plan"

    def __init__(self, adapter: ModelAdapter, tokens: int = 1024) -> None:
        """Measure nothing yet. Raises ``UnsupportedModel`` and ``BadOption``."""
        _check(adapter, tokens)
        self._adapter, self._tokens = adapter, tokens
        self._pure = TimedForms(adapter, [form_cost(adapter, spec) for spec in _pure(adapter)], tokens)
        self._last: TimedForms | None = None
        self._rates: Bandwidths | None = None

    @property
    def total(self) -> int:
        """Return the number of steps, or about as many before it is known which forms are timed again."""
        return 1 + self._pure.total + (self._last.total if self._last else (1 + _REPEAT) * (_FINALISTS + 2))

    def steps(self) -> Generator[str]:
        """Measure rates, then the pure forms in turns, then the best of them beside mixtures."""
        yield "how fast memory and links are"
        self._rates = rates(self._adapter, self._tokens)
        yield from self._pure.steps()
        ways, whole = self._pure.ways(), self._adapter.token_bytes
        best = sorted(eligible(ways, whole), key=lambda each: each.seconds or 0.0)[:_FINALISTS]
        # what is compared must have been timed in turns: on a busy machine one minute is not like the next
        mixed = [form_cost(self._adapter, spec) for spec in _mixed(self._adapter, ways)]
        self._last = TimedForms(self._adapter, [*best, *mixed], self._tokens)
        yield from self._last.steps()

    def plan(self, stopped: str = "") -> Plan:
        """Return the plan; where it was ``stopped`` nothing is picked."""
        adapter, whole = self._adapter, self._adapter.token_bytes
        device = torch.cuda.get_device_name(adapter.device) if adapter.device.type == "cuda" else "CPU"
        last = self._last.ways() if self._last else []
        again = {each.form: each for each in last if each.seconds is not None or each.refused}
        ways = [each for each in self._pure.ways() if each.form not in again]
        return Plan(
            model=adapter.name,
            device=f"{device}, {plural(torch.get_num_threads(), 'thread')}" if device == "CPU" else device,
            dtype=str(adapter.dtype).removeprefix("torch."),
            tokens=self._tokens,
            kv_bytes=whole,
            rates=self._rates,
            ways=(*ways, *again.values()),
            pick="" if stopped else pick(last, whole),
            stopped=stopped,
        )

    def found(self) -> dict[str, Any]:
        """Return what has been timed so far."""
        return self.plan("not done yet").to_dict()


def form_cost(adapter: ModelAdapter, spec: str) -> FormCost:
    """Return the bytes of form ``spec``, not yet timed; refused if it takes more than K/V."""
    form = parse(spec, adapter.n_layers)
    sizes = {"token_bytes": form.token_bytes(adapter), "device_bytes": form.device_bytes(adapter)}
    return FormCost(form=spec, exact=form.exact, **sizes, refused=too_large(form, adapter))


def too_large(form: Form, adapter: ModelAdapter) -> str:
    """Return why ``form`` is refused: it takes more bytes a token than K/V; empty if it does not."""
    mine, theirs = form.token_bytes(adapter), adapter.token_bytes
    return f"{mine:,} bytes a token, more than the {theirs:,} bytes of its K/V" if mine - ID_BYTES > theirs else ""


def eligible(ways: Sequence[FormCost], whole: int, most: float = MOST) -> list[FormCost]:
    """Return the exact forms that were timed and take at most the share ``most`` of ``whole`` bytes on the device."""
    room = most * whole + ID_BYTES
    return [each for each in ways if each.exact and each.seconds is not None and each.device_bytes <= room]


def pick(ways: Sequence[FormCost], whole: int) -> str:
    """Return the fastest eligible form."""
    return min(eligible(ways, whole), key=lambda each: each.seconds or 0.0).form


class TimedForms:
    """Forms that are timed in turns, and the least seconds of a restoration each: load only adds time."""

    def __init__(self, adapter: ModelAdapter, ways: Sequence[FormCost], tokens: int) -> None:
        """Time nothing yet."""
        self._adapter, self._ways, self._tokens = adapter, ways, tokens
        self._refused = {each.form: each.refused for each in ways}
        self._seconds: dict[str, list[float]] = {each.form: [] for each in ways}

    @property
    def total(self) -> int:
        """Return the number of steps, before any form is found not to fit the model."""
        return (1 + _REPEAT) * sum(not each.refused for each in self._ways)

    def steps(self) -> Generator[str]:
        """Restore a sequence in each form once unmeasured, then ``_REPEAT`` times measured."""
        made: dict[str, BoundedSequence] = {}
        for each in self._ways:
            if not each.refused:
                yield f"{each.form}, warm-up"
                try:
                    form = parse(each.form, self._adapter.n_layers)
                    made[each.form] = random_sequence(self._adapter, form, self._tokens)
                except UnsupportedModel as reason:
                    self._refused[each.form] = str(reason)
                else:
                    restore_seconds(made[each.form])
        for number in range(1, _REPEAT + 1):
            for spec, sequence in made.items():
                yield f"{spec}, restoration {number} of {_REPEAT}"
                self._seconds[spec].append(restore_seconds(sequence))

    def ways(self) -> list[FormCost]:
        """Return the forms with what was measured of each so far."""
        return [
            replace(each, seconds=min(self._seconds[each.form], default=None), refused=self._refused[each.form])
            for each in self._ways
        ]


def restore_seconds(sequence: BoundedSequence) -> float:
    """Return the seconds in which the older K/V of every layer are restored once."""
    settle(sequence.adapter)
    clock = timed()
    sequence.restore()
    settle(sequence.adapter)
    return clock()


def random_sequence(adapter: ModelAdapter, form: Form, tokens: int) -> BoundedSequence:
    """Return a sequence of ``tokens`` older tokens and a kept one; ids and what is held are random."""
    sequence = BoundedSequence(adapter, form, lambda _: 1)
    known = adapter.capabilities
    sequence.ids.extend(made_up_ids(tokens + 1, adapter.config.vocab_size))
    width = layer_calls(adapter, adapter.tensor([0]), CapturingCache(), start=0)[0].hidden
    options: dict[str, Any] = {"dtype": adapter.dtype}
    for index, layer in enumerate(sequence.cache.layers):
        device = torch.device(adapter.devices[index])
        if held := sequence.held[index]:
            shape = (*width.shape[:-2], tokens + 1, width.shape[-1])
            if form.sources[index] == LATENT:
                shape = (1, tokens + 1, form.latent_rank(adapter, index))
            held.add(torch.randn(shape, device=device, **options))
        if adapter.kv_bytes(index):
            sides = [(known.kv_heads[index], size[index]) for size in (known.key_dim, known.value_dim)]
            kept = tokens + 1 if layer.keeps_all else 1
            layer.window = tuple(torch.randn(1, heads, kept, dim, device=device, **options) for heads, dim in sides)  # type: ignore[assignment]
            layer.old, layer.is_initialized = tokens + 1 - kept, True
            for side, (heads, dim) in zip(sequence.hosts[index] or (), sides, strict=False):
                side.add(torch.randn(1, heads, tokens, dim, **options))
    return sequence


def _pure(adapter: ModelAdapter) -> list[str]:
    every = [f"every({k})" for k in (2, 4, 8) if k < adapter.n_layers]
    return ["ids", "start(0)", *every, "layers", "int8", "int4", "latent", "host"]


def _mixed(adapter: ModelAdapter, ways: Sequence[FormCost]) -> list[str]:
    """Return the mixtures to time: as many layers kept as memory allows, as many loaded as projecting hides."""
    seconds, n = {each.form: each.seconds for each in ways}, adapter.n_layers
    mixed = [f"first({n - int(MOST * n)})"] if n > 1 else []
    project, load = seconds.get("layers"), seconds.get("host")
    if project and load and 0 < (m := round(n * load / (load + project))) < n:
        mixed.append(f"mix({m})")
    return mixed


def _check(adapter: ModelAdapter, tokens: int) -> None:
    known = adapter.capabilities
    for need in ("prefix", "walk", "causal", "per_token"):
        if not getattr(known, need):
            message = f"nothing to plan for {adapter.name}: {known.why_not(need)}"
            raise UnsupportedModel(message)
    most = min(known.context, known.stable_context) - 1
    if not is_whole(tokens, 1) or tokens > most:
        message = f"tokens={tokens!r} is not accepted: tokens is a whole number between 1 and {most} on this model"
        raise BadOption(message)
