"""What the models of both frameworks have: a session, how it is asked, and the passages that it knows as chunks."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from nbkv.integrations.passages import Passages
from nbkv.session.session import Session

_NAMES = {"max_tokens": "max_new_tokens"}  # as others call them


class SessionModel(BaseModel):
    """Fields of a framework's model that answers from ``session``; ``strategy`` None is the session's own."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    session: Session = Field(exclude=True)
    strategy: str | None = None
    max_new_tokens: int = 256
    temperature: float = 0.0
    match: str | None = "earlier"
    _passages: Passages | None = PrivateAttr(default=None)

    @property
    def passages(self) -> Passages:
        """Return the passages that are known as chunks."""
        if self._passages is None:
            self._passages = Passages(self.session)
        return self._passages

    def _options(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return options of ``session.generate``: this model's own, and in their place those that a call has given."""
        own = {
            "strategy": self.strategy,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "match": self.match,
        }
        return own | {_NAMES.get(name, name): value for name, value in given.items()}
