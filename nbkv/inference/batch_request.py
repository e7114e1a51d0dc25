"""One request of a batch: its tokens run in passes that others share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from nbkv.context import Request
from nbkv.events import Bus, Started
from nbkv.inference.loop import AnswerTask, DecodeLoop
from nbkv.inference.run import RequestRun
from nbkv.models.caches.base import SequenceCache
from nbkv.models.caches.packed import Bundle, Feed
from nbkv.models.sampling import Chooser
from nbkv.prompts.text_stream import TextStream
from nbkv.result import Provenance, Timing
from nbkv.show.units import plural
from nbkv.strategy import Prefilled, RequestGroup


class _SlotBytes(SequenceCache):
    """What a result asks of a sequence in a bundle: the bytes that a pass over it reads."""

    def __init__(self, token_bytes: int, tokens: int) -> None:
        self.token_bytes, self.tokens = token_bytes, tokens

    def held_bytes(self) -> int:
        """Return the bytes of the K/V of its tokens, shared ones included."""
        return self.token_bytes * self.tokens


class _Answer(DecodeLoop):
    """An answer whose next tokens others ask the model for."""

    def pieces(self) -> Iterator[tuple[str, str | None]]:
        """Raise ``TypeError``: there is nothing to iterate over."""
        message = "the tokens of an answer in a batch come from passes that it shares with others"
        raise TypeError(message)

    def begin(self) -> Chooser:
        """Return what picks the tokens."""
        request, ctx = self.task.request, self.task.ctx
        return Chooser(self.task.sampling, self._config, request.ids, ctx.adapter.device)

    def take(self, token: int, logits: torch.Tensor, chooser: Chooser) -> str | None:
        """Take ``token``, picked from ``logits`` ``[V]``; return the reason to finish, None to go on."""
        reason = self._take(token, logits, chooser)[1]
        self.mark()
        return reason


@dataclass
class BatchRequest(RequestRun):
    """Request ``index`` of a batch that began ``at`` (seconds of ``time.perf_counter``).

    It runs alone like any request, or is seated in a slot of a bundle: ``ahead`` are then its tokens to run next.
    ``error`` is what a processor or criterion of the caller's raised.
    """

    index: int = 0
    at: float = 0.0
    ahead: Sequence[int] = ()
    slot: int = 0
    error: Exception | None = None
    _answer: _Answer | None = None
    _chooser: Chooser | None = None
    _prefilled: Prefilled | None = None
    _seated: float = field(default=0.0)

    @property
    def asked(self) -> Request:
        """Return the request."""
        return self._request()

    @property
    def own_tokens(self) -> int:
        """Return how many tokens prompt and answer have at most."""
        return len(self.prompt.ids) + self._request().max_new_tokens

    @property
    def plain(self) -> bool:
        """Return whether its next token is that of the largest logit."""
        assert self._chooser is not None  # noqa: S101
        return self._chooser.plain

    def seat(self, bundle: Bundle, group: RequestGroup, matched: int | None) -> None:
        """Begin in ``bundle``, the sequences of ``group``; ``matched`` tokens of its prefix were stored already.

        None: another sequence of the group has had the rest of the prefix computed.
        """
        self._mark("start")
        self._mark("seated")
        request, n, shared = self._request(), len(self.prompt.ids), group.shared
        provenance = np.full(n, Provenance.FRESH, dtype=np.uint8)
        provenance[: shared if matched is None else matched] = Provenance.PREFIX
        notes = [f"ran with {plural(len(group.members) - 1, 'other prompt')}"]
        if shared:
            notes = [
                f"{notes[0]} that share {plural(shared, 'token')} of KV"
                if len(group.members) > 1
                else f"reads {plural(shared, 'stored token')} of KV in place"
            ]
        size = _SlotBytes(self.ctx.adapter.token_bytes, shared)
        self._prefilled = Prefilled(cache=size, logits=torch.empty(0), provenance=provenance, notes=notes)
        computed = 0 if matched is None else shared - matched
        self._prefilled.rows.token_layers = (n - shared + computed) * self.ctx.adapter.n_layers
        text = TextStream(self.ctx.codec, self.sampling.stop)
        task = AnswerTask(self.strategy, self._prefilled, request, self.ctx, self.sampling)
        self._answer = _Answer(task, text, self._tokens, lambda: self._mark("token"))
        self._chooser = self._answer.begin()
        self.slot, self.ahead = bundle.add(), self.prompt.ids[shared:]
        self.ctx.tell(Started, strategy=self.strategy.spec, prompt=n)

    def feed(self, bundle: Bundle, most: int) -> Feed:
        """Return what a pass runs of it, ``most`` tokens at most."""
        return Feed(bundle, self.slot, self.ahead[:most])

    def fed(self, tokens: int, logits: torch.Tensor, largest: int) -> str | None:
        """Take the ``logits`` ``[V]`` after ``tokens`` more of its tokens; return the reason to finish, None to go on.

        ``largest`` is the index of the largest logit.
        """
        assert self._answer is not None  # noqa: S101
        assert self._chooser is not None  # noqa: S101
        assert self._prefilled is not None  # noqa: S101
        self._prefilled.cache.tokens += tokens  # type: ignore[attr-defined]  # made in ``seat``
        self.ahead = self.ahead[tokens:]
        if self.ahead:
            return None
        if not self._tokens:
            self._mark("prefilled")
        token = largest if self._chooser.plain else self._chooser.choose(logits)
        reason = self._answer.take(token, logits, self._chooser)
        self.ahead = (token,)
        return reason

    def end(self, reason: str) -> None:
        """Make the result."""
        assert self._answer is not None  # noqa: S101
        self._finish(reason, self._answer.text, self._prefilled)

    def leave_out(self) -> None:
        """Make the result of a request that never began; nobody hears of it."""
        self._mark("start")
        heard = replace(self.ctx, bus=Bus())
        self.ctx, kept = heard, self.ctx
        self._finish("interrupted", TextStream(self.ctx.codec, ()), None)
        self.ctx = kept

    def _mark(self, name: str) -> None:
        super()._mark(name)
        if name == "start":
            self._marks[name] = self.at

    def _timing(self, prefilled: Prefilled | None) -> Timing:
        """Return the timing; what was waited for until others had left room is part of the time to first token only."""
        timing = super()._timing(prefilled)
        waited = self._marks.get("seated", self._marks["start"]) - self._marks["start"]
        return replace(timing, prefill_s=max(0.0, timing.prefill_s - waited))
