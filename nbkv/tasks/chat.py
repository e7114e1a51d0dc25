"""Chat: dialogues about notes; the first turn brings some, later ones may bring more."""

from dataclasses import replace
from random import Random
from typing import Final

from nbkv.errors import BadOption
from nbkv.tasks.items import Dialogue, Evidence, Place
from nbkv.tasks.questions import NOTED, ask
from nbkv.tasks.writer import NoteLine, check_size, cut, place, write_notes

FEWEST_TURNS: Final = 6
MOST_TURNS: Final = 20
_ONLY_NOTES: Final = 0.25


def chat(seed: int = 0, n: int = 64, chunks: int = 3, turns: int = 0, lines: int = 8) -> list[Dialogue]:
    """Return ``n`` dialogues of ``turns`` turns (0: each of 6 to 20); the same arguments give the same ones everywhere.

    The notes come in ``chunks`` portions of ``lines`` lines: the first opens the dialogue, the others come with later
    turns, a quarter of them without a question (the answer is then "Noted."). Raises ``BadOption`` for sizes that no
    dialogue can have.
    """
    check_size(n, chunks, lines)
    if turns and not FEWEST_TURNS <= turns <= MOST_TURNS:
        message = f"turns={turns}: from {FEWEST_TURNS} to {MOST_TURNS}, or 0 for mixed"
        raise BadOption(message)
    if chunks > (turns or FEWEST_TURNS):
        message = f"chunks={chunks}: at most one portion of notes a turn"
        raise BadOption(message)
    rng = Random(f"chat {seed}")
    return [_dialogue(rng, chunks, turns or rng.randint(FEWEST_TURNS, MOST_TURNS), lines) for _ in range(n)]


def _dialogue(rng: Random, chunks: int, turns: int, length: int) -> Dialogue:
    notes = write_notes(rng, chunks * length, apart=length)
    portions = cut(notes, length)
    brings = [0, *sorted(rng.sample(range(1, turns), chunks - 1))]
    dialogue = Dialogue([], [], [])
    asked: set[int] = set()
    for turn in range(turns):
        portion = portions[brings.index(turn)] if turn in brings else ""
        known = [at for at in range(length * sum(at <= turn for at in brings)) if notes[at].answerable]
        fresh = [at for at in known if at not in asked] or known
        silent = not fresh or (portion and turn > 0 and rng.random() < _ONLY_NOTES)
        target = None if silent else rng.choice(fresh)
        asked.update(() if target is None else (target,))
        _turn(rng, dialogue, portion, notes, target)
        dialogue.oracle.append(_evidence(notes, target, brings, length))
    return dialogue


def _turn(rng: Random, dialogue: Dialogue, portion: str, notes: list[NoteLine], target: int | None) -> None:
    question, answer, kind = "", NOTED, "noted"
    if target is not None:
        question, answer = ask(rng, notes[target])
        kind = "local" if notes[target].given is None else "carried"
    dialogue.turns.append((portion + question).rstrip())
    dialogue.answers.append(answer)
    dialogue.kinds.append(kind)


def _evidence(notes: list[NoteLine], target: int | None, brings: list[int], length: int) -> Evidence:
    def where(index: int) -> Place:
        # a portion's number becomes its turn's; the portion is at the turn's beginning, so offsets stay
        found = place(notes, index, length)
        return replace(found, chunk=brings[found.chunk])

    if target is None:
        return Evidence(())
    given = notes[target].given
    return Evidence((where(target),), () if given is None else (where(given),))
