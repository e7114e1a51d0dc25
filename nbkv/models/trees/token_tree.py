"""K/V of sequences that branch off each other: every token is held once, whoever sees it.

The tokens lie one behind another in one memory a layer, in the order they came; a sequence is the set of those that it
sees. So a branch costs no copy, and a token is given up when no sequence sees it any more (the radix cache that ETS
counts its K/V in, arXiv 2502.13575, section 3, without its pages).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nbkv.kv import KV, allocate

Pair = tuple[torch.Tensor, torch.Tensor]

_STEP = 16  # room is a multiple of this many tokens


class TokenTree:
    """Sequences behind the K/V ``pieces`` of their first ``base`` tokens, one after another, which all of them see.

    ``lengths`` are the tokens behind these that each sequence sees; sequences are numbered from 0 without gaps.
    ``sees`` ``[sequences, held]`` says which of the held tokens, ``places`` ``[held]`` are their positions.
    """

    def __init__(self, pieces: Sequence[KV], n_layers: int, device: torch.device) -> None:
        """Begin without sequences."""
        self.pieces = tuple(pieces)
        self.base = sum(piece.length for piece in pieces)
        self.lengths: list[int] = []
        self.sees = torch.zeros(0, 0, dtype=torch.bool, device=device)
        self.places = torch.zeros(0, dtype=torch.long, device=device)
        self._layers: list[Pair | None] = [None] * n_layers

    @property
    def held(self) -> int:
        """Return the number of tokens held, each once, without those of the pieces."""
        return int(self.places.shape[0])

    @property
    def alone(self) -> int:
        """Return how many tokens there would be if each sequence held all of its own, those of the pieces too."""
        return sum(self.base + length for length in self.lengths)

    @property
    def nbytes(self) -> int:
        """Return the bytes allocated for what is held, used or not; pieces are not among it."""
        return sum(side.numel() * side.element_size() for pair in self._layers if pair for side in pair)

    @property
    def shared_bytes(self) -> int:
        """Return the bytes of the pieces."""
        return sum(piece.nbytes for piece in self.pieces)

    def begin(self) -> int:
        """Begin a sequence that sees the pieces only; return its number."""
        self.sees = torch.cat([self.sees, self.sees.new_zeros(1, self.held)])
        self.lengths.append(0)
        return len(self.lengths) - 1

    def fork(self, number: int) -> int:
        """Begin a sequence that sees what sequence ``number`` sees; return its number."""
        self.sees = torch.cat([self.sees, self.sees[number : number + 1]])
        self.lengths.append(self.lengths[number])
        return len(self.lengths) - 1

    def keep(self, numbers: Sequence[int]) -> None:
        """End all sequences but ``numbers``, which are numbered anew in that order; free what none of them sees."""
        rows = torch.tensor(list(numbers), dtype=torch.long, device=self.sees.device)
        self.sees = self.sees.index_select(0, rows)
        self.lengths = [self.lengths[number] for number in numbers]
        seen = self.sees.any(0).nonzero().flatten()
        if len(seen) < self.held:
            self.sees, self.places = self.sees.index_select(1, seen), self.places.index_select(0, seen)
            for layer, pair in enumerate(self._layers):
                if pair is not None:  # one layer after another: never all of it twice
                    keys, values = (_moved(side, seen.to(side.device), _rounded(len(seen))) for side in pair)
                    self._layers[layer] = keys, values

    def written(self, layer: int, states: Pair) -> None:
        """Put ``states`` ``[H, n, D]`` of new tokens behind those that are held."""
        start, stop = self.held, self.held + states[0].shape[1]
        held = self._layers[layer]
        if held is None or held[0].shape[1] < stop:
            room = _rounded(stop + stop // 8)
            of = states if held is None else held
            kept = torch.arange(0 if held is None else start, device=states[0].device)
            held = self._layers[layer] = _moved(of[0], kept, room), _moved(of[1], kept, room)
        for side, rows in zip(held, states, strict=True):
            side[:, start:stop] = rows

    def read(self, layer: int, tokens: int) -> Pair:
        """Return the first ``tokens`` keys and values ``[H, tokens, D]`` as views."""
        pair = self._layers[layer]
        assert pair is not None  # noqa: S101  (a pass writes before it reads)
        return pair[0][:, :tokens], pair[1][:, :tokens]

    def grown(self, sees: torch.Tensor, places: torch.Tensor, numbers: Sequence[int]) -> None:
        """Hold new tokens at positions ``places`` ``[n]``: sequence ``numbers[i]`` has token i, ``sees`` is anew."""
        self.sees, self.places = sees, torch.cat([self.places, places])
        for number in numbers:
            self.lengths[number] += 1


def _rounded(tokens: int) -> int:
    return -(-tokens // _STEP) * _STEP


def _moved(side: torch.Tensor, kept: torch.Tensor, room: int) -> torch.Tensor:
    """Return memory for ``room`` tokens that begins with those of ``side`` ``[H, T, D]`` at ``kept``."""
    heads, _, width = side.shape
    made = allocate(heads, room, width, dtype=side.dtype, device=side.device)
    made[:, : len(kept)] = side.index_select(1, kept)
    return made
