"""What branches are worth, by a function of the caller's; one that fails costs no more than its branch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbkv.errors import NbkvError
from nbkv.scalars import is_number, kind_of

# Takes the answers so far of some branches, gives a number for each.
Reward = Callable[[list[str]], Sequence[float]]
# Takes the texts of some steps, gives a vector [d] for each.
Embedding = Callable[[list[str]], Any]


def scored(reward: Reward, texts: Mapping[int, str]) -> dict[int, float | NbkvError]:
    """Return for each branch of ``texts``, by its number, what ``reward`` says of it, or why it says nothing.

    All are asked for at once. Where that raises or does not give a finite number for each, every branch is asked for
    alone, so that only those fail that must.
    """
    try:
        given = _numbers(reward(list(texts.values())), len(texts))
    except Exception as error:  # noqa: BLE001  (the caller's own code)
        if len(texts) > 1:
            return {number: scored(reward, {number: text})[number] for number, text in texts.items()}
        (number,) = texts
        told = str(error) if isinstance(error, _Unusable) else f"{type(error).__name__}: {error}"
        failed = NbkvError(f"branch {number}: reward {told}")
        failed.__cause__ = error
        return {number: failed}
    return dict(zip(texts, given, strict=True))


def embedded(embedding: Embedding, texts: Sequence[str]) -> list[NDArray[np.float32]]:
    """Return what ``embedding`` gives for ``texts``, as ``[d]`` each; raises ``NbkvError`` for anything else."""
    try:
        made = np.asarray(embedding(list(texts)), dtype=np.float32)
    except Exception as error:
        message = f"embedding failed: {type(error).__name__}: {error}"
        raise NbkvError(message) from error
    if made.ndim != 2 or len(made) != len(texts) or not made.size or not np.isfinite(made).all():  # noqa: PLR2004
        message = f"embedding gave an array of shape {made.shape} for {len(texts)} texts (accepted: finite [n, d])"
        raise NbkvError(message)
    return list(made)


class _Unusable(ValueError):
    """A reward that is no number for each branch."""


def _numbers(given: object, n: int) -> list[float]:
    if hasattr(given, "tolist"):  # an array, a tensor, a column
        given = given.tolist()
    if isinstance(given, str) or not isinstance(given, Sequence):
        message = f"gave {kind_of(given)} (accepted: a list of numbers, one for each of the texts it is given)"
        raise _Unusable(message)
    if len(given) != n:
        message = f"gave {len(given)} numbers for {n} texts"
        raise _Unusable(message)
    for value in given:
        if not is_number(value) or not math.isfinite(value):
            message = f"gave {value!r:.40} (accepted: a finite number)"
            raise _Unusable(message)
    return [float(value) for value in given]
