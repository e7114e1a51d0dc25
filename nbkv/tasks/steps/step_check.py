"""How good an answer in steps is so far: step by step against the one right way, as a process reward model would say.

A search over steps (``session.search``) asks this of every branch. A checker that knows the answer is no model that
guesses it: what it measures is the search, not the judge.
"""

from __future__ import annotations

from collections.abc import Sequence

from nbkv.errors import BadOption
from nbkv.tasks.items import Item
from nbkv.tasks.metrics import normal


class StepCheck:
    """Knows the right steps of an answer; each step ends with the text ``end``.

    Called with answers so far, it gives for each a number from 0 to 1: half of it is the share of what was said that
    stands before the first wrong step, half how much of the right answer that is. So 1 is all of the right answer and
    nothing else. Said after the last right one, a step is wrong.
    """

    def __init__(self, answer: str | Item, end: str = "\n") -> None:
        """Take the steps of ``answer``, or of an item's only answer; raises ``BadOption`` if there are none."""
        text = answer.answers[0] if isinstance(answer, Item) else answer
        self.end = end
        self.steps = [normal(step) for step in text.split(end) if step.strip()]
        if not self.steps:
            message = f"answer {text!r:.60} has no steps that end with {end!r}"
            raise BadOption(message)

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Return for each of ``texts`` how good it is, from 0 to 1."""
        return [self._worth(text) for text in texts]

    def is_right(self, text: str) -> bool:
        """Return whether ``text`` is all of the right steps and nothing else."""
        return self._said(text) == self.steps

    def right_steps(self, text: str) -> int:
        """Return how many steps of ``text`` are right before the first wrong one."""
        wrong = (at for at, (said, step) in enumerate(zip(self._said(text), self.steps, strict=False)) if said != step)
        return next(wrong, min(len(self._said(text)), len(self.steps)))

    def _worth(self, text: str) -> float:
        right, said = self.right_steps(text), len(self._said(text))
        return (right / said + right / len(self.steps)) / 2 if said else 0.0

    def _said(self, text: str) -> list[str]:
        return [normal(step) for step in text.split(self.end) if step.strip()]
