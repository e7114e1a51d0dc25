"""Which layers of a model must be run again where an answer stands behind other words: measured once a model.

RelayCaching (arXiv 2603.13289) finds a critical range of layers offline, by how far K/V that were decoded deviate from
those of a full prefill; accounts of it differ on where that range lies. How much deviation there is says little of how
much of it matters (on SmolLM2 it grows up to the last layer), so here the effect is measured: how far the next words
are from full when all rows of the answer are run again in a range of layers, from the hidden states that were captured
where it was decoded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch

from nbkv.context import Context
from nbkv.families.agents.decoded import captured
from nbkv.families.blend.layerwise import LayerwisePlacement, PlacedKV
from nbkv.fidelity import kl_rows
from nbkv.kv import KV
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.caches.growing_layer import Pair
from nbkv.models.probing.prompt import made_up_ids
from nbkv.models.work import LayerInput, Work

_LEFT = 0.25  # of naive reuse's distance may be left by the range that is chosen
_STEPS = 8  # places at which a range may begin or end
_CHECKED = 2  # layers behind the first of a range, one of which is its detection layer: all rows run up to there

_PRIMES = ((29, 31, 37), (41, 43, 47))

# Who said it, what was said, what the next one reads before it, and how it goes on. Written for this.
_TEXTS = (
    (
        "You plan a visit to the sea. List what has to be done, and when.\n",
        (
            "1. Buy the tickets on Monday: two adults, one child.\n2. Ask Peter for the tent; he is home after six.\n"
            "3. Pack bread, apples and the blue blanket.\n4. Leave at seven, before the road is full.\n"
        ),
        "You check plans that others made. Be brief and name the numbers of steps that are wrong.\nThe plan:\n",
        "\nStep 2 says whom to ask, and for what: ask Peter for the tent. Step 4 says when to leave: at seven",
    ),
    (
        "Write down the stock of the shop, one line for each thing.\n",
        "chair = 40\ntable = 12\nlamp = 25\ncarpet = 7\nmirror = 31\nshelf = 18\n",
        "A customer wants to know what there is. These are the notes of a colleague:\n",
        "\nSo there are 25 of the lamp, 31 of the mirror and 40 of the chair",
    ),
)


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """Layers ``[start, stop)`` are run again, from the input of ``start``; at ``detection`` rows are selected.

    Before ``start`` and from ``stop`` on K/V stay as they were decoded. ``naive`` and ``left`` are nats from full, over
    the profile's own texts, of reuse as it is and of all rows run in the range.
    """

    start: int
    detection: int
    stop: int
    naive: float = 0.0
    left: float = 0.0


class Handover(NamedTuple):
    """Token ids: an answer behind one prompt, and the ids before and behind it in another."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    before: tuple[int, ...]
    behind: tuple[int, ...]


def layer_profile(ctx: Context) -> LayerProfile:
    """Return the profile of ``ctx``'s model, measured now if it is not known; it takes some seconds then.

    Layers that use others' K/V cannot be entered between two of them: there the range is the whole model.
    """
    if ctx.adapter.capabilities.shared_kv:
        return LayerProfile(start=0, detection=1, stop=ctx.adapter.n_layers)
    name = f"relay@{ctx.model}@{ctx.adapter.dtype}"
    known = ctx.verdicts.get(name)
    if known is None:
        known = asdict(measured(ctx.adapter, handovers(ctx)))
        ctx.verdicts.put(name, known)
    return LayerProfile(**known)


def handovers(ctx: Context) -> list[Handover]:
    """Return the texts as ids; made-up ids for a model whose tokenizer cannot write them."""
    unknown, codec = ctx.codec.tokenizer.unk_token_id, ctx.codec
    parts = [[tuple(codec.part(text, first=False)) for text in texts] for texts in _TEXTS]
    ids = [each for texts in parts for part in texts for each in part]
    room, vocabulary = ctx.adapter.capabilities.context, int(ctx.adapter.config.vocab_size)
    if sum(each == unknown for each in ids) * 10 <= len(ids) and max(map(len, map(_flat, parts))) < room:
        bos = tuple(codec.bos_ids)
        return [Handover((*bos, *a), answer, (*bos, *b), behind) for a, answer, b, behind in parts]
    made = (
        (made_up_ids(9, vocabulary, a), made_up_ids(24, vocabulary, b), made_up_ids(15, vocabulary, c), b)
        for a, b, c in _PRIMES
    )
    return [Handover(a, answer, b, made_up_ids(6, vocabulary, again)) for a, answer, b, again in made]


def measured(adapter: ModelAdapter, handed: Sequence[Handover]) -> LayerProfile:
    """Return the shortest range found: its start as late, then its end as early as a quarter of the distance allows."""
    trials, n = [HandoverTrial(adapter, each) for each in handed], adapter.n_layers
    naive = _mean([trial.distance(0, 0) for trial in trials])

    def holds(start: int, stop: int) -> bool:
        return _mean([trial.distance(start, stop) for trial in trials]) <= _LEFT * naive

    places = sorted({round(n * step / _STEPS) for step in range(_STEPS + 1)})
    least = min(2, n)  # values are told apart behind the first layer of a range, and something runs behind that
    start = _last([at for at in places if at <= n - least], lambda at: holds(at, n))
    stop = _last(sorted(-at for at in places if at >= start + least), lambda at: holds(start, -at))
    left = _mean([trial.distance(start, -stop) for trial in trials])
    detection = _detection(torch.cat([trial.deviations for trial in trials], dim=1), start, -stop)
    return LayerProfile(start=start, detection=detection, stop=-stop, naive=naive, left=left)


class HandoverTrial:
    """An answer that was decoded behind one prompt and stands in another: full, reused, or run again in part."""

    def __init__(self, adapter: ModelAdapter, handed: Handover) -> None:
        """Run both prompts in full; note what each layer was given for the answer."""
        self.adapter, self._base = adapter, len(handed.prompt)
        self._ids = adapter.tensor([*handed.before, *handed.answer, *handed.behind])
        self._at, self._n, self._keep = len(handed.before), len(handed.answer), len(handed.behind)
        self._hidden: dict[int, torch.Tensor] = {}
        decoded = adapter.growing(self._base + self._n)
        run = self._noting(adapter.n_layers, lambda: adapter.prefill((*handed.prompt, *handed.answer), decoded))
        run()
        self._kv = decoded.read(self._base, self._base + self._n)
        whole = adapter.growing(len(self._ids))
        self._full = adapter.forward(self._ids, whole, start=0, keep=self._keep)
        self.deviations = _apart(self._kv, whole.read(self._at, self._at + self._n))

    def distance(self, start: int, stop: int) -> float:
        """Return the mean nats from full behind the answer, all rows of which are run again in ``[start, stop)``."""
        adapter, ids, work = self.adapter, self._ids, Work()
        every = torch.arange(len(ids), device=ids.device)
        inside = (every >= self._at) & (every < self._at + self._n)
        others, cache = every[~inside], self._placed()
        since: LayerInput | None = None
        if stop > start:
            if start:
                since = adapter.advance(ids[others], others, cache, stop=start, work=work)
                parts = (since.hidden[..., : self._at, :], self._hidden[start], since.hidden[..., self._at :, :])
                since = LayerInput(torch.cat(parts, dim=-2), start)
            if stop == adapter.n_layers:
                return self._nats(adapter.recompute(ids, every, cache, since=since, keep=self._keep))
            since = adapter.advance(ids, every, cache, stop=stop, since=since, work=work).keep(others)
        return self._nats(adapter.recompute(ids[others], others, cache, since=since, keep=self._keep))

    def _noting(self, n_layers: int, run: Callable[[], object]) -> Callable[[], object]:
        for layer in range(n_layers):
            run = self._noted(layer, run)
        return run

    def _noted(self, layer: int, run: Callable[[], object]) -> Callable[[], object]:
        def keep(hidden: torch.Tensor) -> None:
            self._hidden[layer] = hidden[..., self._base :, :]

        def noting() -> object:
            with captured(self.adapter, layer, keep):
                return run()

        return noting

    def _placed(self) -> GrowingCache:
        cache = GrowingCache(len(self._ids))
        assert self.adapter.rope is not None  # noqa: S101
        placement = LayerwisePlacement(cache, self.adapter.rope, len(self._ids))
        placement.add(PlacedKV(self._kv, self._base, self._at))
        placement.begin()
        placement.need(self.adapter.n_layers - 1)
        return cache

    def _nats(self, logits: torch.Tensor) -> float:
        return float(kl_rows(self._full, logits).mean())


def _apart(decoded: KV, full: KV) -> torch.Tensor:
    """Return 1 - cos of the values ``[layers, T]``; zeros for layers that use others'."""
    sides, every = zip(decoded.values, full.values, strict=True), torch.arange(decoded.length)
    return torch.stack([value_distances((a, a), (b, b), every) if a.shape[0] else every * 0.0 for a, b in sides])


def value_distances(cached: Pair, fresh: Pair, rows: torch.Tensor) -> torch.Tensor:
    """Return 1 - cos between fresh values ``[H, R, D]`` and ``rows`` of cached ``[H, T, D]``, float32 ``[R]``.

    Over heads and dimensions together.
    """
    sides = cached[1].index_select(1, rows.to(cached[1].device)), fresh[1]
    old, new = (each.transpose(0, 1).flatten(1).float() for each in sides)
    return 1 - torch.nn.functional.cosine_similarity(old, new, dim=1)


def _detection(deviations: torch.Tensor, start: int, stop: int) -> int:
    """Return which of the first layers of the range orders tokens most as the whole range does.

    Not ``start`` itself: what it is given was captured, so its values are those that were decoded.
    """
    inside = range(start + 1, max(start + 2, min(start + 1 + _CHECKED, stop - 1)))
    whole = deviations[start + 1 : stop].mean(dim=0)
    alike = [float(torch.corrcoef(torch.stack([deviations[at], whole])).nan_to_num()[0, 1]) for at in inside]
    return inside[alike.index(max(alike))]


def _last(places: Sequence[int], holds: Callable[[int], bool]) -> int:
    """Return the last of rising ``places`` that holds, where all before one that holds do: the first at least."""
    return places[max(1, bisect_left(places, 1, key=lambda at: int(not holds(at)))) - 1]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _flat(parts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(each for part in parts for each in part)
