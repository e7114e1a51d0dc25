"""MuSiQue (Trivedi et al. 2022, arXiv 2108.00573): questions of two to four hops over Wikipedia paragraphs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nbkv.tasks.files.passages import Hop, Paragraph, Question, check_chunks, item, unique
from nbkv.tasks.files.records import FileRecord, chosen, records
from nbkv.tasks.items import Item

_ACCEPTED: Final = (
    "MuSiQue's answerable questions (musique_ans_v1.0_train.jsonl or _dev.jsonl): question, answer, paragraphs "
    "[{idx, title, paragraph_text}, …], question_decomposition [{paragraph_support_idx}, …]"
)


def musique(
    path: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    chunks: int | None = None,
    kinds: Sequence[str] | None = None,
) -> list[Item]:
    """Return ``n`` questions (None: all) from MuSiQue's file at ``path``, in the order that ``seed`` gives.

    A chunk is a paragraph with its title; ``chunks`` is how many an item has: the supporting ones and distractors,
    shuffled (None: all of the file's, 20). ``kind`` is the number of hops, ``2hop``, ``3hop`` or ``4hop``, and
    ``kinds`` leaves out the others. ``oracle[i]`` is the paragraph of hop ``i``
    (``question_decomposition[i].paragraph_support_idx``), and ``item.hops[i]`` its chunk. ``answers`` holds the aliases
    too. Scored by ``em``, ``f1`` and ``rouge_l``. Reads the publishers' JSON lines, and a JSON list of the same
    records. Raises ``LoadError`` naming file and line, and ``BadOption``.
    """
    check_chunks(chunks)

    questions = [_question(record) for record in records(path, _ACCEPTED)]
    return [item(question, rng, chunks) for question, rng in chosen(questions, n, seed, kinds)]


def _question(record: FileRecord) -> Question:
    if record.data.get("answerable") is False:
        record.refuse("the question is not answerable")
    listed = record.get("paragraphs", list)
    paragraphs = [_paragraph(record, entry) for entry in listed]
    at = {entry.get("idx", number): number for number, entry in enumerate(listed)}
    hops = [_hop(record, step, at) for step in record.get("question_decomposition", list)]
    aliases = record.texts("answer_aliases") if record.data.get("answer_aliases") else []
    return Question(
        where=record.where,
        text=record.get("question", str).strip(),
        answers=unique([record.get("answer", str), *aliases]),
        kind=f"{len(hops)}hop",
        paragraphs=tuple(paragraphs),
        hops=tuple(hops),
        name=str(record.data.get("id", "")),
    )


def _paragraph(record: FileRecord, entry: object) -> Paragraph:
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("title", "paragraph_text")):
        record.refuse(f"'paragraphs' holds {entry!r:.40}")
    return Paragraph(entry["title"], (entry["paragraph_text"],))


def _hop(record: FileRecord, step: object, at: dict[int, int]) -> Hop:
    index = step.get("paragraph_support_idx") if isinstance(step, dict) else None
    if index not in at:
        record.refuse(f"a hop is supported by paragraph {index!r}, which is not in 'paragraphs'")
    return Hop(at[index])
