"""What a block-diffusion reader is trained on: notes read once, and answers with some of their tokens masked.

A row of a batch holds, one behind the other, the notes, then for each question a *branch*: the rest of the notes that
fills no whole block, the question and the answer as they are, then copies of the answer's blocks in which tokens are
masked. Branches see the notes and themselves only, so each of them is what decoding has before it. This is the clean
and noisy sequence of block diffusion (Arriola et al. 2025, section 3 and appendix B.6), with the clean notes shared.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

import torch

from nbkv.tasks.vocabulary import SPECIAL

MASK: Final = SPECIAL.index("<mask>")
END: Final = SPECIAL.index("</s>")
IGNORED: Final = -100
_PAD: Final = SPECIAL.index("<pad>")
_NOBODY: Final = -1
_ANY_ORDER: Final = 0.5


@dataclass(frozen=True, slots=True)
class NotesDrill:
    """Notes as token ids, the start token first, and ``(question, answer)`` pairs; an answer ends with ``</s>``."""

    notes: list[int]
    asked: list[tuple[list[int], list[int]]]


class BatchRow:
    """One row of a batch while it is written: per token its id, position, branch, copy, and what it has to become.

    Branch 0 is the notes; copy 0 is clean, others are noisy. ``targets`` is the token at the very position (no shift)
    where it is masked, else ``IGNORED``.
    """

    def __init__(self, notes: list[int], block: int) -> None:
        """Write the whole blocks of the notes; what is left over opens every branch."""
        self.block, self.start = block, len(notes) // block * block
        self.left_over = notes[self.start :]
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.branches: list[int] = []
        self.copies: list[int] = []
        self.targets: list[int] = []
        self._write(notes[: self.start], 0, 0)

    def ask(self, rng: Random, question: list[int], answer: list[int], copies: int, length: int) -> bool:
        """Append a branch with so many noisy copies of its answer, unless the row would exceed ``length`` tokens.

        Answers of more than two blocks get as many more copies of their first two: these are looked up by the
        question's words, what follows by the line said last, and reports would begin too seldom to learn it.
        """
        given = [*self.left_over, *question]
        text = [*given, *answer]
        text += [END] * (-len(text) % self.block)
        first = len(given) // self.block * self.block
        opening = first + 2 * self.block
        stops = [len(text)] * copies + [opening] * copies * (opening < len(text))
        clean = text[: -self.block]  # no noisy block sees the last clean one
        if len(self.ids) + len(clean) + sum(stop - first for stop in stops) > length:
            return False
        branch = 1 + max(self.branches, default=0)
        self._write(clean, branch, 0)
        for copy, stop in enumerate(stops, 1):
            masked = _masked(rng, range(len(given), stop), self.block)
            self._write(text[first:stop], branch, copy, first, {at - first for at in masked})
        return True

    def _write(self, ids: list[int], branch: int, copy: int, first: int = 0, masked: Iterable[int] = ()) -> None:
        hidden = set(masked)
        begin = first + (self.start if branch else 0)
        self.ids += [MASK if at in hidden else token for at, token in enumerate(ids)]
        self.targets += [token if at in hidden else IGNORED for at, token in enumerate(ids)]
        self.positions += range(begin, begin + len(ids))
        self.branches += [branch] * len(ids)
        self.copies += [copy] * len(ids)


def _masked(rng: Random, said: range, block: int) -> list[int]:
    # In each block any number of tokens is equally likely to be masked: a noise level drawn evenly from 0 to 1. Every
    # other time they are the last ones, or some of them: confident decoding mostly goes from left to right.
    found: list[int] = []
    for start in range(said.start // block * block, said.stop, block):
        inside = [at for at in range(start, start + block) if at in said]
        count = rng.randint(1, len(inside))
        if rng.random() < _ANY_ORDER:
            found += rng.sample(inside, count)
        else:
            first, *later = inside[-count:]
            found += [first, *rng.sample(later, rng.choice((len(later), rng.randint(0, len(later)))))]
    return found


@dataclass(frozen=True, slots=True)
class Batch:
    """``ids``, ``positions``, ``targets``, each ``[B, T]``, and who sees whom: ``mask [B, 1, T, T]``.

    ``ready [B, T]``: masked tokens that open their block or stand behind one that is known. Decoding fills these next.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    ready: torch.Tensor
    mask: torch.Tensor

    def to(self, device: str) -> "Batch":
        """Give the batch on a device."""
        return Batch(*(getattr(self, name).to(device) for name in self.__slots__))


def collate(sheets: list[BatchRow], length: int) -> Batch:
    """Make a batch of rows with the same block size, padded to ``length`` tokens."""

    def stack(rows: Iterable[list[int]], padding: int) -> torch.Tensor:
        return torch.tensor([row + [padding] * (length - len(row)) for row in rows])

    block = sheets[0].block
    ids = stack((sheet.ids for sheet in sheets), _PAD)
    positions = stack((sheet.positions for sheet in sheets), 0)
    branches = stack((sheet.branches for sheet in sheets), _NOBODY)
    copies = stack((sheet.copies for sheet in sheets), 1)
    return Batch(
        ids=ids,
        positions=positions,
        targets=stack((sheet.targets for sheet in sheets), IGNORED),
        ready=(ids == MASK) & ((positions % block == 0) | (ids.roll(1, 1) != MASK)),
        mask=visible(positions // block, branches, copies)[:, None],
    )


def visible(blocks: torch.Tensor, branches: torch.Tensor, copies: torch.Tensor) -> torch.Tensor:
    """Tell which key each query sees, ``[B, T, T]``, from each token's block, branch and copy, ``[B, T]`` each.

    Clean blocks see themselves and the clean blocks before them, noisy blocks the clean blocks before them and
    themselves; all of them within the notes and their own branch.
    """

    def query(part: torch.Tensor) -> torch.Tensor:
        return part[:, :, None]

    def key(part: torch.Tensor) -> torch.Tensor:
        return part[:, None, :]

    same = (query(blocks) == key(blocks)) & (query(copies) == key(copies)) & (query(branches) == key(branches))
    family = (key(branches) == 0) | (query(branches) == key(branches))
    return same | (family & (key(copies) == 0) & (key(blocks) < query(blocks)))
