"""Passages whose order is free, put in the order that reuses most; a passage that is there twice is said once.

Retrieved passages often stand in an order that means nothing, and then prompts that could share a prefix do not.
ContextPilot aligns them, CacheWeaver (arXiv 2606.19667) walks the stored orders greedily: reuse then goes further and
stays exact. What the model reads is another order of the same passages, and a note says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nbkv.prompts.prompt import Prompt
from nbkv.result import Chunk

Known = Callable[[Sequence[int]], int]  # how many of the first of these tokens are stored


@dataclass(frozen=True)
class _PassageRun:
    """The first chunks of a prompt that stand together, ``[start, stop)`` of its ids, ``between`` each two the same."""

    first: int
    chunks: tuple[Chunk, ...]
    between: tuple[int, ...]
    start: int
    stop: int

    def ids(self, chunks: Sequence[Chunk]) -> tuple[int, ...]:
        """Return the ids of ``chunks`` as they would stand here."""
        found: list[int] = []
        for number, chunk in enumerate(chunks):
            found += [*(self.between if number else ()), *chunk.token_ids]
        return tuple(found)


def reordered(prompts: Sequence[Prompt], known: Known) -> list[Prompt]:
    """Return ``prompts`` with their passages in the order that lets them share and reuse most, and a note of it.

    Passages are the first two or more chunks of a prompt that stand together, with the same between each two. Greedy:
    of prompts that are alike so far, those go on with a passage that have most to gain by it, in tokens that need not
    run: for each of them but one, and for that one as far as ``known`` tells that they are stored.
    """
    runs = [_passages(prompt) for prompt in prompts]
    chosen: dict[int, tuple[Chunk, ...]] = {}
    alike: dict[tuple[int, ...], list[int]] = {}
    for at, run in enumerate(runs):
        if run is not None:
            alike.setdefault((*prompts[at].ids[: run.start], -1, *run.between), []).append(at)
    for members in alike.values():
        head = prompts[members[0]].ids[: runs[members[0]].start]  # type: ignore[union-attr]  # they have one
        chosen |= _walk({at: runs[at] for at in members}, head, known)  # type: ignore[misc]
    return [
        prompt if run is None else _rewritten(prompt, run, chosen[at])
        for at, (prompt, run) in enumerate(zip(prompts, runs, strict=True))
    ]


def _passages(prompt: Prompt) -> _PassageRun | None:
    spans = prompt.chunks
    for first in range(len(spans) - 1):
        between = prompt.ids[spans[first][2] : spans[first + 1][1]]
        last = first + 1
        while last + 1 < len(spans) and prompt.ids[spans[last][2] : spans[last + 1][1]] == between:
            last += 1
        if _is_gap(prompt, between, first, last):
            chunks = tuple(chunk for chunk, _, _ in spans[first : last + 1])
            return _PassageRun(first, chunks, between, spans[first][1], spans[last][2])
    return None


def _is_gap(prompt: Prompt, between: tuple[int, ...], first: int, last: int) -> bool:
    """Return whether what stands between chunks separates them: nothing, or the same again, short, each time."""
    shortest = min(stop - start for _, start, stop in prompt.chunks[first : last + 1])
    return not between or (len(between) <= shortest and (last > first + 1 or len(between) == 1))


def _walk(runs: dict[int, _PassageRun], head: tuple[int, ...], known: Known) -> dict[int, tuple[Chunk, ...]]:
    """Return for each prompt of ``runs``, all alike so far, its passages in order, each once."""
    left = {at: {chunk.token_ids: chunk for chunk in run.chunks} for at, run in runs.items()}
    done: dict[int, tuple[Chunk, ...]] = {}
    between = next(iter(runs.values())).between
    work: list[tuple[list[int], tuple[Chunk, ...], tuple[int, ...]]] = [(list(runs), (), head)]
    while work:
        members, said, path = work.pop()
        while members:
            best, gain = _best([left[at] for at in members], path, between, known)
            if best is None or not gain:
                done |= {at: (*said, *left[at].values()) for at in members}
                break
            going = [at for at in members if best in left[at]]
            chunk = left[going[0]][best]
            for at in going:
                del left[at][best]
            work.append((going, (*said, chunk), (*path, *best, *between)))
            members = [at for at in members if at not in set(going)]
    return done


def _best(
    left: Sequence[dict[tuple[int, ...], Chunk]], path: tuple[int, ...], between: tuple[int, ...], known: Known
) -> tuple[tuple[int, ...] | None, int]:
    """Return the passage that saves most tokens if it comes next, and how many."""
    counts: Counter[tuple[int, ...]] = Counter(passage for passages in left for passage in passages)
    is_stored = not path or known(path) == len(path)
    best, most = None, 0
    for passage, count in counts.items():
        gain = (count - 1) * len(passage)
        if is_stored:
            others = next(passages for passages in left if passage in passages)
            gain += _stored(passage, path, between, [each for each in others if each != passage], known)
        if gain > most:
            best, most = passage, gain
    return best, most


def _stored(
    passage: tuple[int, ...],
    path: tuple[int, ...],
    between: tuple[int, ...],
    others: Sequence[tuple[int, ...]],
    known: Known,
) -> int:
    """Return how many tokens are stored behind ``path``, which is, if ``passage`` follows and then the best others."""
    found = max(0, known((*path, *passage)) - len(path))
    if found < len(passage):
        return found
    longer = (*path, *passage, *between)
    rest = [_stored(other, longer, between, [each for each in others if each != other], known) for other in others]
    return found + max(rest, default=0)


def _rewritten(prompt: Prompt, run: _PassageRun, chunks: Sequence[Chunk]) -> Prompt:
    given = [chunk.name for chunk in run.chunks]
    names = [chunk.name for chunk in chunks]
    if names == given:
        return replace(prompt, notes=(*prompt.notes, "order=reuse: the passages stay in their order"))
    ids, spans, at = run.ids(chunks), [], run.start
    for chunk in chunks:
        spans.append((chunk, at, at + len(chunk)))
        at += len(chunk) + len(run.between)
    moved = len(ids) - (run.stop - run.start)
    behind = [(chunk, start + moved, stop + moved) for chunk, start, stop in prompt.chunks[run.first + len(given) :]]
    said = f"order=reuse: passages stand as {', '.join(names)} (given: {', '.join(given)})"
    if len(names) < len(given):
        said += f"; {len(given) - len(names)} that came twice left out"
    return Prompt(
        (*prompt.ids[: run.start], *ids, *prompt.ids[run.stop :]),
        (*prompt.chunks[: run.first], *spans, *behind),
        (*prompt.notes, said),
    )
