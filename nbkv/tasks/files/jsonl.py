"""Questions from JSON lines: RULER's and LongBench's files, and plain ones with chunks of their own."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from nbkv.tasks.files.passages import INSTRUCTION, METRICS, check_chunks
from nbkv.tasks.files.records import FileRecord, chosen, records
from nbkv.tasks.items import Item
from nbkv.tasks.metrics import check_metrics

_ACCEPTED: Final = (
    "JSON lines with chunks [text, …], question, answers [text, …]; LongBench's with context, input, answers; RULER's "
    "with input, outputs"
)
_PASSAGE = re.compile(r"^(?=(?:Passage|Document) \d+:)", re.MULTILINE)
_SUMMARIES = ("gov_report", "qmsum", "multi_news", "vcsum", "samsum")


def from_jsonl(
    path: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    chunks: int = 8,
    kinds: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
) -> list[Item]:
    """Return ``n`` questions (None: all) from the JSON lines at ``path``, in the order that ``seed`` gives.

    Three kinds of record are told apart by their keys.

    - plain: ``chunks``, ``question``, ``answers`` (or ``answer``), and optionally ``kind``, ``instruction``, ``id``: as
    they are. - LongBench (arXiv 2308.14508): ``context``, ``input``, ``answers``. The context is cut into ``chunks``
    pieces, where it has numbered passages at their beginnings; ``kind`` is its ``dataset``. Summaries are scored by
    ``rouge_l`` alone. - RULER (arXiv 2404.06654): ``input``, ``outputs``. The first line of the input is the
    instruction, the last one the question; what is between is cut. ``kind`` is the name of the file's folder, which is
    the task's in RULER, and answers are scored by ``match_all`` (by ``match_any`` if that name begins with ``qa``).

    Pieces are cut at ends of lines, or of sentences, or at spaces, and joined they are the context. ``metrics``
    replaces the metrics of all items (names of ``nbkv.tasks.metrics.METRICS``). Raises ``LoadError`` naming file and
    line, and ``BadOption``.
    """
    check_chunks(chunks)
    scored = None if metrics is None else check_metrics(metrics)
    folder = Path(path).expanduser().resolve().parent.name

    items = [item_of(record, chunks, folder, scored) for record in records(path, _ACCEPTED)]
    return [item for item, _ in chosen(items, n, seed, kinds)]


def item_of(record: FileRecord, chunks: int, folder: str, metrics: tuple[str, ...] | None) -> Item:
    """Return the item of a record of one of the three kinds; ``folder`` is the name of the file's."""
    if "chunks" in record.data:
        return plain_item(record, record.texts("answers" if "answers" in record.data else "answer"), metrics)
    if "context" in record.data:
        return _longbench(record, chunks, metrics)
    if "outputs" not in record.data:
        record.refuse(f"its keys are {', '.join(record.data) or 'none'}")
    return _ruler(record, chunks, folder, metrics)


def plain_item(record: FileRecord, answers: list[str], metrics: tuple[str, ...] | None) -> Item:
    """Return the item of a plain record, with ``answers``."""
    return Item(
        chunks=record.texts("chunks"),
        question=record.get("question", str),
        answers=answers,
        kind=str(record.data.get("kind", "plain")),
        metrics=metrics or METRICS,
        instruction=str(record.data.get("instruction", INSTRUCTION)),
        name=str(record.data.get("id", "")),
    )


def _longbench(record: FileRecord, chunks: int, metrics: tuple[str, ...] | None) -> Item:
    kind = str(record.data.get("dataset", "longbench"))
    summary = kind in _SUMMARIES
    question = record.data.get("input") or ("Summarize the text above." if summary else "")
    if not isinstance(question, str) or not question:
        record.refuse("has no 'input'")
    return Item(
        chunks=pieces(record.get("context", str), chunks),
        question=question,
        answers=record.texts("answers"),
        kind=kind,
        metrics=metrics or (("rouge_l",) if summary else METRICS),
        instruction="Read the text below.\n\n" if summary else INSTRUCTION,
        name=str(record.data.get("_id", "")),
    )


def _ruler(record: FileRecord, chunks: int, folder: str, metrics: tuple[str, ...] | None) -> Item:
    text = record.get("input", str)
    instruction, first, rest = text.lstrip().partition("\n")
    context, last, question = rest.rstrip().rpartition("\n")
    if not (first and last and context.strip()):
        record.refuse("'input' is not an instruction, a text and a question on lines of their own")
    return Item(
        chunks=pieces(context + last, chunks),
        question=question + str(record.data.get("answer_prefix") or ""),
        answers=record.texts("outputs"),
        kind=folder,
        metrics=metrics or (("match_any",) if folder.startswith("qa") else ("match_all",)),
        instruction=instruction + first,
        name=str(record.data.get("index", "")),
    )


def pieces(text: str, count: int) -> list[str]:
    """Return ``text`` cut into at most ``count`` pieces of about the same length, which joined are ``text`` again."""
    borders = [match.start() for match in _PASSAGE.finditer(text) if match.start()]
    if len(borders) < count - 1:
        borders = _ends(text, count)
    wanted = [len(text) * part // count for part in range(1, count)]
    cuts = sorted({min(borders, key=lambda border: abs(border - want)) for want in wanted} if borders else ())
    return [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True) if start < stop]


def _ends(text: str, count: int) -> list[int]:
    """Return where text may be cut: behind lines, else behind sentences, else behind spaces."""
    found: list[int] = []
    for end in (r"\n+", r"[.!?]\s+|\n+", r"\s+"):
        found = [match.end() for match in re.finditer(end, text) if match.end() < len(text)]
        if len(found) >= 4 * count:
            break
    return found
