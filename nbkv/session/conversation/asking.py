"""A question to a conversation: at its end, or in place of an earlier turn; nothing changes before it is answered."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbkv.session.chat import Chat


class Asking:
    """``prompt`` asked in ``chat``, in place of turn ``turn`` and all after it where that is given.

    ``stream`` is read for the answer, then ``keep`` makes it a turn. Raises ``BadOption`` where there is no such turn,
    ``BadPrompt`` and whatever else ``chat.stream`` does: then, and where the answer fails or is stopped, the
    conversation stays as it was. ``options`` are those of ``chat.stream``.
    """

    def __init__(self, chat: Chat, prompt: Any, turn: int | None = None, **options: Any) -> None:  # noqa: ANN401  (as chats have them)
        """Begin nothing yet: that is done by reading ``stream``."""
        self._chat, self._prompt, self._turn = chat, prompt, turn
        trial = copy(chat)  # its turns are a tuple, and so its own
        if turn is not None:
            trial.rewind(turn)
        self.stream = trial.stream(prompt, **options)

    def keep(self) -> bool:
        """Make question and answer a turn; return False where there is no complete answer."""
        result = self.stream.result
        if result is None or result.finish_reason == "interrupted":
            return False
        if self._turn is not None:
            self._chat.rewind(self._turn)
        self._chat.keep(self._prompt, result)
        return True
