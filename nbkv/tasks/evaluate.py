"""Scoring: every item is asked in a session, and its answer compared with the expected one."""

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from nbkv.tasks.items import Dialogue, Item

if TYPE_CHECKING:
    import pandas as pd

_ROOM = 8  # tokens more than the expected answer is thought to need
_NUMBERS = ("correct", "kl", "compute_share", "ttft_s", "hit_rate", "recomputed")


def normal(text: str) -> str:
    """Return ``text`` with runs of whitespace as one space, none at either end, and no ``. , ; : ! ?`` at its end."""
    return re.sub(r"[\s.,;:!?]+$", "", " ".join(text.split()))


def is_correct(text: str, answers: list[str]) -> bool:
    """Return whether ``text`` is the ``answers`` in their order, both after ``normal``; case counts."""
    return normal(text) == normal(" ".join(answers))


def evaluate(
    session: Any,  # noqa: ANN401  (tasks sit beside Session and do not import it)
    items: Iterable[Item | Dialogue],
    strategy: Any = None,  # noqa: ANN401
    *,
    fidelity: bool = False,
    max_new_tokens: int | None = None,
    sink: str | None = None,
) -> "pd.DataFrame":
    """Ask every item in ``session`` under ``strategy`` (None: the session's own) and return one row per item.

    Columns: ``kind``, ``correct`` (0.0 or 1.0; for a dialogue the share of its turns), ``kl`` (nats, against ``full``
    on the same prompt; NaN unless the result carries it or ``fidelity`` asks for a comparison), ``compute_share``,
    ``ttft_s`` (seconds), ``hit_rate``, ``recomputed`` (tokens), ``text`` and ``answer``. A dialogue's figures are means
    over its turns.

    ``max_new_tokens`` defaults to three for each word or mark of the expected answer, and eight more. With ``sink``
    each text of an item is encoded as a chunk behind that sink first (see ``session.chunk``); without, and in a
    dialogue, texts are plain. A callable ``strategy(session, item, prompt)`` returns the strategy for each item (see
    ``nbkv.studies.oracle``).
    """
    import pandas as pd  # noqa: PLC0415  (imported late: nbkv itself must load fast)

    rows = []
    for item in items:
        if isinstance(item, Dialogue):
            rows.append(_dialogue_row(session, item, strategy, max_new_tokens))
        else:
            rows.append(_item_row(session, item, strategy, max_new_tokens, fidelity=fidelity, sink=sink))
    return pd.DataFrame(rows, columns=["kind", *_NUMBERS, "text", "answer"])


def _room(answer: str) -> int:
    # three tokens for a word or mark are enough for subword tokenizers; an end token stops earlier
    return _ROOM + 3 * len(re.findall(r"\w+|[^\w\s]", answer))


def _item_row(
    session: Any,  # noqa: ANN401
    item: Item,
    strategy: Any,  # noqa: ANN401
    max_new_tokens: int | None,
    *,
    fidelity: bool,
    sink: str | None,
) -> dict[str, Any]:
    answer = " ".join(item.answers)
    prompt = [*(_chunk(session, text, sink) for text in item.chunks), item.question]
    if callable(strategy):
        strategy = strategy(session, item, prompt)
    # before the answer: what a strategy stores of a prompt must not help it with the same one
    kl = _kl(session, prompt, strategy) if fidelity else None
    result = session.generate(prompt, strategy=strategy, max_new_tokens=max_new_tokens or _room(answer))
    row = _figures(result, answer)
    if kl is not None:
        row["kl"] = kl
    return {"kind": item.kind, **row}


def _chunk(session: Any, text: str, sink: str | None) -> Any:  # noqa: ANN401
    if sink is None:
        return text
    return session.chunk(text, name=sha256(f"{sink} {text}".encode()).hexdigest()[:16], sink=sink)


def _kl(session: Any, prompt: list[Any], strategy: Any) -> float:  # noqa: ANN401
    # the KL is that of the logits after the prompt: one run and one token are enough
    frame = session.compare(prompt, ["full", strategy or "full"], repeat=1, max_new_tokens=1).to_frame()
    return float(frame["kl"].iloc[-1])


def _figures(result: Any, answer: str) -> dict[str, Any]:  # noqa: ANN401
    return {
        "correct": float(is_correct(result.text, [answer])),
        "kl": float("nan") if result.fidelity is None else float(result.fidelity.kl),
        "compute_share": float(result.compute.share),
        "ttft_s": float(result.timing.ttft_s),
        "hit_rate": float(result.hit_rate),
        "recomputed": float(result.tokens.recomputed),
        "text": result.text,
        "answer": answer,
    }


def _dialogue_row(
    session: Any,  # noqa: ANN401
    item: Dialogue,
    strategy: Any,  # noqa: ANN401
    max_new_tokens: int | None,
) -> dict[str, Any]:
    chat = session.chat()
    turns = []
    for turn, answer in zip(item.turns, item.answers, strict=True):
        room = max_new_tokens or _room(answer)
        result = chat.send(turn, strategy=strategy, max_new_tokens=room)
        turns.append(_figures(result, answer))
    row: dict[str, Any] = {name: sum(t[name] for t in turns) / len(turns) for name in _NUMBERS}
    text, answers = ("\n".join(t[name] for t in turns) for name in ("text", "answer"))
    return {"kind": item.kind, **row, "text": text, "answer": answers}
