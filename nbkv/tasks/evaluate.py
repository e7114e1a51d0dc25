"""Scoring: every item is asked in a session, and its answer compared with the expected one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Protocol

from nbkv.errors import BadOption
from nbkv.registry import strategies
from nbkv.result import Chunk, Comparison, Provenance, Result
from nbkv.tasks.items import Dialogue, Item
from nbkv.tasks.metrics import METRICS, is_correct, normal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["evaluate", "is_correct", "normal"]

_ROOM, _SENTENCE = 8, 32
_NUMBERS = ("correct", "kl", "compute_share", "ttft_s", "hit_rate", "recomputed")
_CHUNKS = frozenset({"blend", "link"})  # families of strategies that reuse chunks
_MAY = _CHUNKS | {"auto"}
_OF_CHUNKS = (Provenance.CHUNK, Provenance.CORRECTED, Provenance.RECOMPUTED)


class Asked(Protocol):
    """What questions are asked: a session."""

    @property
    def strategy(self) -> object:
        """Return the strategy that is used where none is named."""

    @property
    def has_template(self) -> bool:
        """Return whether prompts can be messages."""

    def generate(self, prompt: Any, **options: Any) -> Result:  # noqa: ANN401  (as a session has them)
        """Run ``prompt`` and return the answer."""

    def compare(self, prompt: Any, strategies: Any, **options: Any) -> Comparison:  # noqa: ANN401  (as a session has them)
        """Run ``prompt`` under ``strategies``."""

    def chunk(self, text: str, *, name: str | None = None, sink: str = "auto") -> Chunk:
        """Encode ``text``."""

    def chat(self, system: str | None = None) -> Any:  # noqa: ANN401  (has ``send``)
        """Return a conversation."""


def evaluate(
    session: Asked,
    items: Iterable[Item | Dialogue],
    strategy: object = None,
    *,
    fidelity: bool = False,
    max_new_tokens: int | None = None,
    sink: str | None = "auto",
    chat: bool | None = None,
    order: str | None = None,
) -> pd.DataFrame:
    """Ask every item in ``session`` under ``strategy`` (None: the session's own) and return one row per item.

    Columns: ``kind``, ``correct`` (from 0 to 1: the item's first metric; for a dialogue the share of its
    turns), ``kl`` (nats, against full on the same prompt; NaN unless the result carries it or
    ``fidelity`` asks for a comparison), ``compute_share``, ``ttft_s``, ``hit_rate``, ``recomputed`` (tokens),
    one column for each metric of the items but ``exact`` (such as ``em``, ``f1``, ``rouge_l``), ``text``,
    ``answer``. A dialogue's figures are means over its turns. ``max_new_tokens`` defaults to the answer's
    length with some room.

    ``sink``: with a strategy that reuses chunks, each text of an item becomes a chunk, encoded before
    there is a prompt behind what ``session.chunk(sink="auto")`` chooses; with other strategies texts
    are plain. Another sink is used with every strategy, None makes no chunks; texts of a dialogue are
    always plain. ``strategy`` may be an oracle (see ``nbkv.studies.oracle``), which makes a strategy for
    each item. ``chat`` asks in one message of the user (None: items that bring an instruction, where the
    model has a chat template). ``order="reuse"``: an item's texts become chunks, which may stand in any order.

    Raises ``BadOption`` if a strategy that reuses chunks reused nothing on any item: its score would be
    that of full.
    """
    from nbkv.show.frame import Frame  # noqa: PLC0415  (imported late: nbkv itself must load fast)

    chosen = session.strategy if strategy is None else strategy
    made = "bos" if order and sink == "auto" and not _reads_chunks(chosen, _MAY) else _sink(chosen, sink)
    asker = _Asker(session, strategy, made, chat, max_new_tokens, fidelity=fidelity, order=order)
    rows = [asker.dialogue(item) if isinstance(item, Dialogue) else asker.item(item) for item in items]
    if rows and not asker.reused and _reads_chunks(chosen, _CHUNKS):
        raise BadOption(asker.why_nothing(chosen, sink))
    names = dict.fromkeys(name for row in rows for name in row if name in METRICS)
    return Frame(rows, columns=["kind", *_NUMBERS, *names, "text", "answer"])


def _reads_chunks(strategy: object, families: frozenset[str]) -> bool:
    """Whether a strategy, or one inside it, is of one of the families; what makes an oracle is."""
    if callable(strategy) or getattr(strategy, "family", "") in families:
        return True
    known = set(strategies.names())
    words = re.findall(r"[A-Za-z_][\w-]*", str(strategy))
    # an alias has no entry of its own, but leads to one
    named = [words[0], *(word for word in words[1:] if word in known)] if words else []
    return any(strategies.get(name).family in families for name in named)  # type: ignore[attr-defined]


def _sink(strategy: object, sink: str | None) -> str | None:
    return sink if sink != "auto" or _reads_chunks(strategy, _MAY) else None


class _Asker:
    """Asks items in one session by one strategy, and remembers whether anything was reused as it should be."""

    def __init__(
        self,
        session: Asked,
        strategy: object,
        sink: str | None,
        chat: bool | None,  # noqa: FBT001  (as `evaluate` was given it)
        max_new_tokens: int | None,
        *,
        fidelity: bool,
        order: str | None,
    ) -> None:
        self._session, self._strategy, self._sink, self._chat = session, strategy, sink, chat
        self._room, self._fidelity = max_new_tokens, fidelity
        self._more = {} if order is None else {"order": order}
        self.reused = self._known = False
        self._notes: tuple[str, ...] = ()

    def item(self, item: Item) -> dict[str, Any]:
        """Return the row of an item."""
        parts = [self._chunk(text) for text in item.chunks]
        chat = bool(item.instruction) and self._session.has_template if self._chat is None else self._chat
        prompt = item.prompt(parts, chat=chat)
        strategy = self._strategy
        if callable(strategy):
            strategy = strategy(self._session, item, prompt)
        # Before the answer: what a strategy keeps of a prompt must not help it with the same one.
        kl = self._kl(prompt, strategy) if self._fidelity else None
        given = {"strategy": strategy, "max_new_tokens": self._room or _room(item), **self._more}
        result = self._session.generate(prompt, **given)
        # the last token of a prompt is run again whatever is known
        self.reused |= sum(int((result.provenance == each).sum()) for each in _OF_CHUNKS) > 1
        self._known |= int((result.provenance == Provenance.PREFIX).sum()) > len(result.provenance) // 2
        row = self._figures(result) | {name: METRICS[name](result.text, item.answers) for name in item.metrics}
        row |= {"correct": row[item.metrics[0]], "answer": _said(item)}
        row.pop("exact", None)
        return {"kind": item.kind} | row | ({} if kl is None else {"kl": kl})

    def dialogue(self, item: Dialogue) -> dict[str, Any]:
        """Return the row of a dialogue."""
        chat = self._session.chat()
        turns = []
        for turn, answer in zip(item.turns, item.answers, strict=True):
            room = self._room or _words(answer)
            result = chat.send(turn, strategy=self._strategy, max_new_tokens=room)
            turns.append(self._figures(result) | {"correct": float(is_correct(result.text, [answer]))})
        row: dict[str, Any] = {name: sum(t[name] for t in turns) / len(turns) for name in _NUMBERS}
        self.reused |= row["hit_rate"] > 0  # a turn's history is a prefix, which these strategies continue
        text = "\n".join(t["text"] for t in turns)
        return {"kind": item.kind, **row, "text": text, "answer": "\n".join(item.answers)}

    def why_nothing(self, strategy: object, sink: str | None) -> str:
        """Return what the error says when nothing was reused."""
        why = f"it said: {'; '.join(self._notes)}" if self._notes else "no chunk was found in a prompt"
        if self._known:
            why = "the store knows their prompts from the beginning (session.store.clear() empties it)"
        if self._sink is None:
            why = f"sink={sink!r} makes no chunks of the texts (leave sink out, or give sink='bos')"
        return f"{strategy} reused nothing on any item, its score would be that of full: {why}"

    def _chunk(self, text: str) -> str | Chunk:
        if self._sink is None:
            return text
        name = sha256(f"{self._sink} {text}".encode()).hexdigest()[:16]
        return self._session.chunk(text, name=name, sink=self._sink)

    def _kl(self, prompt: list[Any], strategy: object) -> float:
        # The distance does not depend on how often and how long a strategy runs besides.
        asked = {"repeat": 1, "max_new_tokens": 1, **self._more}
        frame = self._session.compare(prompt, ["full", strategy or "full"], **asked).to_frame()
        return float(frame["kl"].iloc[-1])

    def _figures(self, result: Result) -> dict[str, Any]:
        self._notes = tuple(result.notes)
        return {
            "kl": float("nan") if result.fidelity is None else float(result.fidelity.kl),
            "compute_share": float(result.compute.share),
            "ttft_s": float(result.timing.ttft_s),
            "hit_rate": float(result.hit_rate),
            "recomputed": float(result.tokens.recomputed),
            "text": result.text,
        }


def _room(item: Item) -> int:
    # What real models are asked, they answer in a sentence.
    words = max(map(_words, item.answers)) if len(item.metrics) > 1 else _words(" ".join(item.answers))
    return words if item.metrics[0] == "exact" else words + _SENTENCE


def _words(answer: str) -> int:
    # Three tokens for a word or mark are enough for subword tokenizers; an end token stops earlier.
    return _ROOM + 3 * len(re.findall(r"\w+|[^\w\s]", answer))


def _said(item: Item) -> str:
    return (" " if item.metrics[0] == "exact" else " | ").join(item.answers)
