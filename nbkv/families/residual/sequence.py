"""A sequence in bounded memory: the newest tokens keep K and V, those of older ones are restored layer by layer.

One pass over new tokens goes through the layers once. Before each layer its older K/V are put in place: copied from
the host, projected from the layer's input, or made by running the older tokens through the layer as well, in blocks,
each seeing only what comes before it. After the layer they are gone. So there is never more than one layer's K/V of
older tokens (two where one layer's are loaded from the host while the layer before computes), and every layer's new
tokens see the K/V that a full cache would hold.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from nbkv.families.residual.forms import HOST, IDS, INPUT, KV, LATENT, Form, kv_bytes
from nbkv.families.residual.latents import Latents, latents
from nbkv.families.residual.row_buffer import QuantisedRows, RowBuffer
from nbkv.models.adapter import ModelAdapter
from nbkv.models.caches.restoring import RestoringCache
from nbkv.models.projection.kernel_fit import fuse
from nbkv.models.projection.project import CapturingCache, KVLinears, learn, project_kv
from nbkv.models.walk import LayerCall
from nbkv.models.work import Work

_BLOCKS = 8  # older rows are restored in about as many pieces: what is on its way is then a fraction of a layer
_LEAST = 32  # rows of a piece


@dataclass(eq=False)
class OlderTokens:
    """Older tokens ``[start, stop)``: the model's layer calls for them, and their hidden states between layers."""

    start: int
    stop: int
    calls: list[LayerCall]
    hidden: torch.Tensor | None = None


class BoundedSequence:
    """Token ids, the newest K/V, and of all tokens what ``form`` needs to restore the rest."""

    def __init__(self, adapter: ModelAdapter, form: Form, room: Callable[[int], int], rows: int | None = None) -> None:
        """Start empty; ``room(total)`` tokens keep K/V, ``rows`` older ones are restored at a time."""
        self.adapter, self.form = adapter, form
        self.ids = array("i")
        self.cache = RestoringCache(adapter.n_layers, room)
        self.busy = False
        self._rows = rows
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="nbkv-restore") if form.mixes else None
        self._ahead: dict[int, Future[None]] = {}
        self._last = max(index for index in range(adapter.n_layers) if kv_bytes(adapter, index))
        self.held: list[RowBuffer | QuantisedRows | None] = [None] * adapter.n_layers
        self.hosts: list[tuple[RowBuffer, RowBuffer] | None] = [None] * adapter.n_layers
        self.cache.beside = partial(_nbytes, self.ids, self.held, self.hosts)
        self._latents: list[Latents] = latents(adapter, form) if LATENT in form.sources else []
        self._feeds = learn(adapter) if {INPUT, IDS, LATENT} & set(form.sources) else [KVLinears()] * adapter.n_layers
        self._projections = fuse(adapter, self._feeds) if {INPUT, IDS} & set(form.sources) else []
        self.own_code: dict[int, str] = {}  # where kernels are used: why a layer was projected without, "" if with
        self._lay_out()

    def _lay_out(self) -> None:
        """Allocate each layer's buffer for its inputs, latents or K/V on the host."""
        for index, source in enumerate(self.form.sources):
            layer, has_kv = self.cache.layers[index], bool(kv_bytes(self.adapter, index))
            layer.keeps_all = source == KV
            if source in {INPUT, LATENT} and has_kv:
                self.held[index] = RowBuffer() if self.form.bits is None else QuantisedRows(self.form.bits)
            if source == HOST and has_kv:
                host = (RowBuffer(torch.device("cpu")), RowBuffer(torch.device("cpu")))
                self.hosts[index] = host
                layer.leaving = host

    @property
    def length(self) -> int:
        """Return the number of tokens known."""
        return len(self.ids)

    def forward(self, ids: Sequence[int], work: Work | None = None) -> torch.Tensor:
        """Run tokens ``ids`` behind those that are known; return the logits ``[V]`` after the last.

        An exception on the way leaves this ``busy`` and of no further use.
        """
        self.busy = True
        self._ahead.clear()
        start, blocks = self.length, self._blocks(len(ids))

        def run(calls: Sequence[LayerCall]) -> torch.Tensor:
            return self._drive(calls, blocks, work)

        logits = self.adapter.forward(self.adapter.tensor(ids), self.cache, start=start, runner=run)
        self.ids.extend(ids)
        self.busy = False
        return logits[-1]

    def restore(self) -> None:
        """Restore the older K/V of each layer in turn and drop them again, for timing."""
        blocks = self._blocks(0)
        with torch.no_grad(), self.adapter.evaluating():
            for index, layer in enumerate(self.cache.layers):
                window = layer.window
                self._restore(index, blocks, None, 0)
                layer.window, layer.whole = window, None

    def copy(self) -> BoundedSequence:
        """Return a deep copy."""
        other = BoundedSequence(self.adapter, self.form, self.cache.room, self._rows)
        other.ids.extend(self.ids)
        for mine, theirs in zip(other.cache.layers, self.cache.layers, strict=True):
            mine.copy_from(theirs)
        for index, held in enumerate(self.held):
            other.held[index] = None if held is None else held.copy()
            for side, its in zip(other.hosts[index] or (), self.hosts[index] or (), strict=True):
                side.add_all(its)
        return other

    def truncate(self, length: int) -> None:
        """Forget all tokens from ``length`` on."""
        self.cache.truncate(length)
        del self.ids[length:]
        for held in self.held:
            if held is not None:
                held.truncate(length)
        for layer, host in zip(self.cache.layers, self.hosts, strict=True):
            for side in host or ():
                side.truncate(layer.old)

    def _blocks(self, new: int) -> list[OlderTokens]:
        """Return the older tokens in blocks, each with the model's calls for it."""
        old = self.cache.old
        if not old or not (self.form.runs or any(self.held) or IDS in self.form.sources):
            return []
        size = self._rows or max(_LEAST, -(-(old + new) // _BLOCKS))
        ids, blocks = self.adapter.tensor(self.ids[:old].tolist()), []
        for start in range(0, old, size):
            stop = min(start + size, old)
            blocks.append(OlderTokens(start, stop, self._calls(ids[start:stop], start)))
        return blocks

    def _calls(self, ids: torch.Tensor, start: int) -> list[LayerCall]:
        """Return the calls for older tokens; where no layer runs to its end they need no mask over those before."""
        if not self.form.runs and self.adapter.tells_positions:
            return self.adapter.calls(ids, CapturingCache(), start=start)
        with self.cache.again(start):
            return self.adapter.calls(ids, self.cache, start=start)

    def _drive(self, calls: Sequence[LayerCall], blocks: list[OlderTokens], work: Work | None) -> torch.Tensor:
        hidden, n = calls[0].hidden, calls[0].hidden.shape[-2]
        for index, call in enumerate(calls):
            self._restore(index, blocks, work, n)
            hidden = self._run(index, call, hidden)
            if work is not None:
                work(index, n)
        return hidden

    def _run(self, index: int, call: LayerCall, hidden: torch.Tensor) -> torch.Tensor:
        """Run a layer on the new tokens, and append its input or latents to what is held."""
        walk, held = self.adapter.walk, self.held[index]
        assert walk is not None  # noqa: S101  (the strategy needs it)
        if held is None:
            return walk.layer(index, call, hidden)
        if self.form.sources[index] == INPUT:
            held.add(hidden)
            return walk.layer(index, call, hidden)
        with self._latents[index].reading(held.add):
            return walk.layer(index, call, hidden)

    def _restore(self, index: int, blocks: list[OlderTokens], work: Work | None, new: int) -> None:
        layer = self.cache.layers[index]
        if not layer.old and not blocks:
            return
        if self.hosts[index]:
            self._loading(index, new).result()
        elif layer.old:
            layer.open(new)
        if self._pool is not None and index < self._last and self.hosts[index + 1]:
            self._ahead[index + 1] = self._loading(index + 1, new)
        if self.form.sources[index] in {KV, HOST} or index > self._last:
            return
        for block in blocks:
            self._recompute_block(index, block, work)

    def _loading(self, index: int, new: int) -> Future[None]:
        """Return the copying of a layer's K/V from the host: begun a layer ago, or done now."""
        if index in self._ahead:
            return self._ahead.pop(index)
        if self._pool is not None:
            return self._pool.submit(self._load, index, new)
        done: Future[None] = Future()
        self._load(index, new)
        done.set_result(None)
        return done

    def _load(self, index: int, new: int) -> None:
        layer = self.cache.layers[index]
        if not layer.old:
            return
        layer.open(new)
        assert layer.whole is not None  # noqa: S101
        for mine, side in zip(layer.whole, self.hosts[index] or (), strict=True):
            begin = 0
            for piece in side.read(0, layer.old):
                mine[:, :, begin : begin + piece.shape[-2]].copy_(piece, non_blocking=True)
                begin += piece.shape[-2]

    def _recompute_block(self, index: int, block: OlderTokens, work: Work | None) -> None:
        """Restore K/V of one layer for a block: by projection, or by running the layer if the next needs its output."""
        walk, layer, call = self.adapter.walk, self.cache.layers[index], block.calls[index]
        assert walk is not None  # noqa: S101
        held, source = self.held[index], self.form.sources[index]
        latent = source == LATENT and held is not None
        if source == IDS or latent:
            block.hidden = call.hidden
        elif held is not None:
            block.hidden = held.joined(block.start, block.stop)
        if block.hidden is None:
            return
        if index < self._last and not self.form.ends_at(index):
            with self.cache.again(block.start):
                block.hidden = walk.layer(index, call, block.hidden)
            if work is not None:
                work.token_layers += block.stop - block.start
            return
        hidden, block.hidden = block.hidden, None
        if not latent and self._by_kernel(index, block, hidden):
            return
        with self.cache.again(block.start, capture=True):
            if latent:
                assert held is not None  # noqa: S101
                sides = self._latents[index].project(call, hidden, held.joined(block.start, block.stop))
            else:
                sides = project_kv(walk.layers[index], call, hidden, self._feeds[index])
        if sides is not None:
            self.cache.sample(layer, *sides)
            layer.restore(block.start, *sides)

    def _by_kernel(self, index: int, block: OlderTokens, hidden: torch.Tensor) -> bool:
        """Project a block right into the layer's open buffer, where kernels are used and this layer's way is known."""
        if not self._projections:
            return False
        layer = self.cache.layers[index]
        why = self._projections[index].project(block.calls[index], hidden, layer.span(block.start, block.stop))
        self.own_code[index] = why
        if not why:
            self.cache.sample(layer)
        return not why


def _nbytes(
    ids: array[int],
    held: Sequence[RowBuffer | QuantisedRows | None],
    hosts: Sequence[tuple[RowBuffer, RowBuffer] | None],
) -> int:
    """Return the bytes of everything that is held to restore K/V (no method: the cache must not hold its holder)."""
    others = (*(each for each in held if each), *(side for host in hosts if host for side in host))
    return len(ids) * ids.itemsize + sum(each.nbytes for each in others)
