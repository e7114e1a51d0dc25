"""What became of a search: the best answer, all answers with their rewards, the tree, and the K/V that were held."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from nbkv import show
from nbkv.errors import NbkvError
from nbkv.families.search.tree import SearchNode
from nbkv.inference.search.tree_loop import StepFigures, TreeLoop
from nbkv.result import Result

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("node", "parent", "depth", "state", "reward", "children", "tokens", "kv_bytes", "best", "text", "error")


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One answer of a search, its ``steps`` as text, the reward of each step and, as ``reward``, of the last one.

    ``finish_reason`` is ``stop``, ``length`` (tokens or depth) or ``interrupted``; ``node`` is its last node. The last
    reward is None where a stop came before it was scored.
    """

    node: int
    text: str
    token_ids: tuple[int, ...]
    steps: tuple[str, ...]
    rewards: tuple[float | None, ...]
    finish_reason: str

    @property
    def reward(self) -> float | None:
        """Return what the whole answer is worth."""
        return self.rewards[-1]

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as JSON-able data."""
        return asdict(self) | {"reward": self.reward}


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """What ``session.search`` gives.

    ``best`` is the answer with the highest reward as a Result (None where nothing was scored), ``trajectories`` are all
    answers, the best first; ``nodes`` the tree, a dict each as the rows of ``to_frame``; ``steps`` the figures of each
    depth; ``errors`` those of rewards, by node. ``peak_bytes``: the most memory for K/V at any moment. ``stopped`` says
    how far a search came that did not end.
    """

    best: Result | None
    trajectories: tuple[Trajectory, ...]
    nodes: tuple[dict[str, Any], ...]
    steps: tuple[StepFigures, ...]
    errors: dict[int, NbkvError] = field(default_factory=dict)
    method: str
    model: str
    width: int
    prompt_tokens: int
    seconds: float
    peak_bytes: int
    notes: tuple[str, ...] = ()
    stopped: str = ""

    @classmethod
    def of(cls, loop: TreeLoop, seconds: float, notes: Sequence[str], stopped: str) -> SearchResult:
        """Return what ``loop`` has found, in so many ``seconds``."""
        request = loop.request
        answers = sorted(loop.answers, key=_worth, reverse=True)
        scored = [node for node in loop.nodes if node.depth and node.reward is not None]
        whole = [node for node in answers if node.reward is not None]
        last = max(whole or scored, key=_worth, default=None)
        best = None
        if last is not None:
            told = [f"the best of {len(answers)} answers of a search", *notes]
            reason = last.ended or "interrupted"
            best = request.answered(_tokens(last), reason, peak=loop.peak_bytes, notes=told)
        on_path = set() if last is None else {node.number for node in last.path()}
        return cls(
            best=best,
            trajectories=tuple(_trajectory(node) for node in answers),
            nodes=tuple(_row(node, loop, node.number in on_path) for node in loop.nodes if node.depth),
            steps=tuple(loop.figures),
            errors=dict(loop.errors),
            method=loop.plan.method.spec,
            model=request.ctx.adapter.name,
            width=loop.plan.width,
            prompt_tokens=len(request.prompt.ids),
            seconds=seconds,
            peak_bytes=loop.peak_bytes,
            notes=tuple(notes),
            stopped=stopped,
        )

    @property
    def text(self) -> str | None:
        """Return the best answer."""
        return None if self.best is None else self.best.text

    @property
    def reward(self) -> float | None:
        """Return the best answer's reward."""
        return next((row["reward"] for row in reversed(self.nodes) if row["best"]), None)

    @property
    def generated(self) -> int:
        """Return the number of tokens of all branches."""
        return sum(step.tokens for step in self.steps)

    @property
    def tokens_per_s(self) -> float:
        """Return generated tokens over the search's seconds."""
        return self.generated / self.seconds if self.seconds else 0.0

    @property
    def kv_bytes(self) -> dict[str, float]:
        """Return bytes of K/V: their ``average`` over the steps, ``peak``, and ``alone``: the average without sharing.

        Averages are of what is held at the end of each step (arXiv 2502.13575, section 5.1), prompt included; ``peak``
        is the memory allocated at most.
        """
        n = max(1, len(self.steps))
        return {
            "average": sum(step.held_bytes for step in self.steps) / n,
            "peak": float(self.peak_bytes),
            "alone": sum(step.alone_bytes for step in self.steps) / n,
        }

    def vote(self, answer: Callable[[str], Hashable]) -> Any:  # noqa: ANN401  (what the caller's function gives)
        """Return what most answers say, weighted by their rewards; ``answer(text)`` reads it, None: none was given.

        Weighted majority voting is how the papers choose an answer (arXiv 2408.00724). None if no text has one.
        """
        votes: dict[Hashable, float] = defaultdict(float)
        for each in self.trajectories:
            said = answer(each.text)
            if said is not None and each.reward is not None:
                votes[said] += each.reward
        return max(votes, key=lambda said: votes[said], default=None)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a node of the tree, in the order they were made."""
        import pandas as pd  # noqa: PLC0415  (heavy, only for tables)

        return pd.DataFrame(list(self.nodes), columns=list(_COLUMNS)).set_index("node")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able data."""
        return {
            "kind": "search",
            "model": self.model,
            "method": self.method,
            "width": self.width,
            "prompt_tokens": self.prompt_tokens,
            "text": self.text,
            "reward": self.reward,
            "finish_reason": None if self.best is None else self.best.finish_reason,
            "seconds": self.seconds,
            "generated": self.generated,
            "tokens_per_s": self.tokens_per_s,
            "kv_bytes": self.kv_bytes,
            "steps": [asdict(step) for step in self.steps],
            "nodes": [dict(row) for row in self.nodes],
            "trajectories": [each.to_dict() for each in self.trajectories],
            "errors": [{"node": number, "error": str(error)} for number, error in self.errors.items()],
            "notes": list(self.notes),
            "stopped": self.stopped,
        }

    def __repr__(self) -> str:
        """Return the best answer, the figures, and the tree as text."""
        return show.search_text(self.to_dict())

    def _repr_html_(self) -> str:
        return show.search_html(self.to_dict())


def _tokens(node: SearchNode) -> tuple[int, ...]:
    return tuple(token for step in node.path() for token in step.token_ids)


def _trajectory(node: SearchNode) -> Trajectory:
    path = node.path()
    return Trajectory(
        node=node.number,
        text=node.answer,
        token_ids=_tokens(node),
        steps=tuple(step.text for step in path),
        rewards=tuple(step.reward for step in path),
        finish_reason=node.ended,
    )


def _worth(node: SearchNode) -> float:
    return float("-inf") if node.reward is None else node.reward


def _row(node: SearchNode, loop: TreeLoop, best: bool) -> dict[str, Any]:  # noqa: FBT001  (a cell of a table)
    parent = node.parent
    return {
        "node": node.number,
        "parent": parent.number if parent is not None and parent.depth else None,
        "depth": node.depth,
        "state": node.ended or ("expanded" if node.children else "pruned"),
        "reward": node.reward,
        "children": node.children,
        "tokens": len(node.token_ids),
        "kv_bytes": node.nbytes,
        "best": best,
        "text": node.text,
        "error": str(loop.errors[node.number]) if node.number in loop.errors else None,
    }
