"""What a model decides among options: their likelihood behind a prompt whose KV come from a strategy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from nbkv.context import Request
from nbkv.events import Bus
from nbkv.families.prefix.base import encode
from nbkv.inference.forced import forced
from nbkv.inference.loop import AnswerTask
from nbkv.models.sampling import Sampling
from nbkv.session.session import Session
from nbkv.strategy import parse
from nbkv.tasks.choices.choice import Choice


@dataclass(frozen=True)
class Decision:
    """``odds`` of the options (log likelihoods, or scores of a ranking), and the ``share`` that was computed for it."""

    odds: tuple[float, ...]
    share: float

    @property
    def pick(self) -> int:
        """Return the place of the likeliest option, the first of equal ones."""
        return max(range(len(self.odds)), key=self.odds.__getitem__)


class AskedChoice:
    """One choice in a session, whose chunks are encoded behind ``sink`` before the prompt exists."""

    def __init__(self, session: Session, item: Choice, sink: str) -> None:
        """Encode the chunks, and what stands in front of the first one, as a server has it."""
        self._session, self._options = session, item.options
        parts = [session.chunk(text, name=_name(text), sink=sink) for text in item.chunks]
        chat = bool(item.instruction) and session.has_template
        self._ctx = replace(session._open().for_request(), bus=Bus())  # noqa: SLF001
        self._prompt = session._prompt(item.prompt(parts, chat=chat))  # noqa: SLF001
        if head := self._prompt.ids[: self._prompt.chunks[0][1]]:
            encode(head, self._ctx)

    def under(self, strategy: str) -> Decision:
        """Return what is decided under ``strategy``: the log likelihood of each option's tokens, all of them."""
        chosen, ctx, n = parse(strategy), self._ctx, len(self._prompt.ids)
        options = [ctx.codec.part(text, first=False) for text in self._options]
        request = Request(self._prompt, max(map(len, options)), keep=False)
        prefilled = chosen.prefill(request, ctx)
        task = AnswerTask(chosen, prefilled, request, ctx, Sampling(max_new_tokens=request.max_new_tokens))
        ran = prefilled.rows.token_layers + prefilled.select.token_layers
        try:
            with chosen.decoding(prefilled, ctx):
                odds = [self._odds(task, ids, n) for ids in options]
        finally:
            chosen.commit(prefilled, self._prompt.ids, request, ctx)
        return Decision(tuple(odds), ran / (n * ctx.adapter.n_layers))

    def _odds(self, task: AnswerTask, ids: Sequence[int], prompt: int) -> float:
        logits = forced(task, ids).to(torch.float32)
        task.prefilled.cache.truncate(prompt)
        said = logits.log_softmax(dim=-1).gather(1, torch.tensor(ids, device=logits.device)[:, None])
        return float(said.sum())

    def close(self) -> None:
        """Forget the chunks."""
        self._session.store.clear()
        self._session.chunks.clear()


def decisions(session: Session, item: Choice, rows: Sequence[tuple[str, str]]) -> dict[str, Decision]:
    """Return what is decided on ``item`` in full, and under each ``(sink, strategy)``, by ``"sink strategy"``."""
    found: dict[str, Decision] = {}
    for sink in dict.fromkeys(sink for sink, _ in rows):
        asked = AskedChoice(session, item, sink)
        if "full" not in found:
            found["full"] = asked.under("full")
        for strategy in (strategy for other, strategy in rows if other == sink):
            found[f"{sink} {strategy}"] = asked.under(strategy)
        asked.close()
    return found


def best_paragraph(session: Session, item: Choice, rows: Sequence[tuple[str, str]]) -> dict[str, Decision]:
    """Return as ``decisions`` does which of the chunks is ranked first for ``item.name``, by ``session.rerank``."""
    found: dict[str, Decision] = {}
    for sink in dict.fromkeys(sink for sink, _ in rows):
        chunks = [session.chunk(text, name=_name(text), sink=sink) for text in item.chunks]
        for strategy in (["full"] if "full" not in found else []) + [own for other, own in rows if other == sink]:
            ranking = session.rerank(item.name, chunks, strategy=strategy)
            name = strategy if strategy == "full" else f"{sink} {strategy}"
            found[name] = Decision(ranking.scores, ranking.compute.share)
        session.store.clear()
        session.chunks.clear()
    return found


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
