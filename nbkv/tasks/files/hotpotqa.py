"""HotpotQA (Yang et al. 2018, arXiv 1809.09600): questions over Wikipedia that need two paragraphs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from nbkv.tasks.files.passages import Hop, Paragraph, Question, check_chunks, item
from nbkv.tasks.files.records import FileRecord, chosen, records
from nbkv.tasks.items import Item

_ACCEPTED: Final = (
    "HotpotQA's files with an answer, distractor setting: question, answer, context [[title, [sentence, …]], …], "
    "supporting_facts [[title, sentence number], …]"
)


def hotpotqa(
    path: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    chunks: int | None = None,
    kinds: Sequence[str] | None = None,
) -> list[Item]:
    """Return ``n`` questions (None: all) from HotpotQA's file at ``path``, in the order that ``seed`` gives.

    A chunk is a paragraph with its title; ``chunks`` is how many an item has: the supporting ones and distractors,
    shuffled (None: all of the file's, mostly 10). ``kind`` is the file's type, ``bridge`` or ``comparison``, and
    ``kinds`` leaves out the others. ``oracle[i]`` are the supporting sentences of the i-th supporting paragraph, in the
    file's order, and ``item.hops[i]`` is its chunk. Scored by ``em``, ``f1`` and ``rouge_l``. Reads the publishers'
    JSON list (``hotpot_train_v1.1.json``, ``hotpot_dev_distractor_v1.json``), and JSON lines of the same records or as
    the Hugging Face hub has them. Raises ``LoadError`` naming file and line, and ``BadOption``.
    """
    check_chunks(chunks)

    questions = [_question(record) for record in records(path, _ACCEPTED)]
    return [item(question, rng, chunks) for question, rng in chosen(questions, n, seed, kinds)]


def _question(record: FileRecord) -> Question:
    paragraphs = tuple(_paragraph(record, *pair) for pair in _pairs(record, "context", "sentences"))
    titles = [paragraph.title for paragraph in paragraphs]
    facts: dict[int, list[int]] = {}
    for title, sentence in _pairs(record, "supporting_facts", "sent_id"):
        if title not in titles:
            record.refuse(f"the supporting paragraph {title!r:.60} is not in 'context'")
        at = titles.index(title)
        listed = facts.setdefault(at, [])
        # the data names a few sentences that are not there; the paragraph supports the question all the same
        if isinstance(sentence, int) and sentence in range(len(sentences := paragraphs[at].sentences)):
            listed += [sentence] if sentences[sentence].strip() else []
    return Question(
        where=record.where,
        text=record.get("question", str).strip(),
        answers=(record.get("answer", str),),
        kind=str(record.data.get("type") or "hotpotqa"),
        paragraphs=paragraphs,
        hops=tuple(Hop(at, tuple(supporting)) for at, supporting in facts.items()),
        name=str(record.data.get("_id") or record.data.get("id") or ""),
    )


def _pairs(record: FileRecord, key: str, second: str) -> list[tuple[Any, Any]]:
    """Return the pairs under ``key``: a list of them, or two lists (``title`` and ``second``), as the hub has them."""
    value = record.data.get(key)
    if isinstance(value, dict) and isinstance(value.get("title"), list) and isinstance(value.get(second), list):
        value = [list(pair) for pair in zip(value["title"], value[second], strict=False)]
    if not isinstance(value, list) or not value:
        record.refuse(f"has no {key!r}" if value is None else f"{key!r} is {value!r:.40}")
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):  # noqa: PLR2004
            record.refuse(f"{key!r} holds {pair!r:.40}")
    return [(pair[0], pair[1]) for pair in value]


def _paragraph(record: FileRecord, title: str, sentences: object) -> Paragraph:
    if not isinstance(sentences, list) or not all(isinstance(sentence, str) for sentence in sentences):
        record.refuse(f"the sentences of {title!r:.40} are {sentences!r:.40}")
    return Paragraph(title, tuple(sentences))
