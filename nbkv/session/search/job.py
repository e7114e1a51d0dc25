"""``session.search``: one prompt is read, searched under the session's lock, and what there is is kept."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nbkv.context import Context
from nbkv.errors import BadPrompt, NbkvError, UnsupportedModel
from nbkv.families.batch.plan import why_apart
from nbkv.families.search.rewards import Reward
from nbkv.inference.search.search_request import SearchRequest
from nbkv.inference.search.tree_loop import TreeLoop
from nbkv.prompts.prompt import Prompt, PromptLike
from nbkv.result import Chunk
from nbkv.session.arguments import built_prompt, chosen_strategy, wanted_sampling
from nbkv.session.lock import SessionLock
from nbkv.session.search.results import SearchResult
from nbkv.session.search.search_options import SearchOptions
from nbkv.show.units import plural
from nbkv.stopping import interruption
from nbkv.strategy import Strategy, parse


@dataclass
class SearchJob:
    """One call of ``session.search``: the ``loop`` that runs it, and how long it took."""

    loop: TreeLoop
    notes: tuple[str, ...] = ()
    stopped: str = ""
    _seconds: float = 0.0
    _made: SearchResult | None = None

    @classmethod
    def of(
        cls,
        ctx: Context,
        prompt: PromptLike,
        reward: Reward,
        options: Mapping[str, object],
        *,
        chunks: Mapping[str, Chunk],
        strategy: Strategy,
    ) -> SearchJob:
        """Return the job that was asked for in a session of ``strategy``.

        Raises ``BadOption``, ``BadPrompt``, ``UnknownName``, ``UnsupportedModel``.
        """
        asked, sampled = SearchOptions.of(options)
        plan = asked.plan(reward, strategy)
        serving = plan.method if isinstance(plan.method, Strategy) else parse("prefix")
        chosen_strategy(serving, ctx)
        wanted = wanted_sampling(asked.stop, sampled, ctx)
        built = built_prompt(prompt, asked.match, chunks, ctx, sampled, order=asked.order)
        room = _room(built, ctx)
        notes = (
            []
            if wanted.max_new_tokens <= room
            else [f"answers limited to {plural(room, 'token')} by the model's context"]
        )
        if wanted.temperature == 0 and plan.width > 1:
            notes.append("temperature 0: the branches of a step all say the same")
        wanted = replace(wanted, max_new_tokens=min(wanted.max_new_tokens, room))
        return cls(TreeLoop(SearchRequest(ctx, serving, built, wanted), plan), tuple(notes))

    @property
    def result(self) -> SearchResult:
        """Return what there is."""
        if self._made is None:
            self._made = SearchResult.of(self.loop, self._seconds, self.notes, self.stopped)
        return self._made

    def run(self, lock: SessionLock) -> SearchResult:
        """Search within ``lock``. What raises has what there was as its ``result``."""
        lock.enter()
        began = time.perf_counter()
        try:
            with lock.working():
                self._check()
                self.stopped = self.loop.request.ctx.carry_out(self.loop)
        except KeyboardInterrupt:  # the second one: a store operation may have been cut in two
            self.loop.request.ctx.store.clear()
            self.stopped = "interrupted"
            self._seconds = time.perf_counter() - began
            raise interruption(self.result, self.stopped) from None
        except Exception as error:
            self.stopped, self._seconds = f"{type(error).__name__}: {error}", time.perf_counter() - began
            error.result = self.result  # type: ignore[attr-defined]
            raise
        finally:
            lock.leave()
        self._seconds = time.perf_counter() - began
        found = self.result
        lock.ended(found)
        if found.errors and not found.trajectories:
            failed = NbkvError(f"no branch has a reward, the first one failed so: {next(iter(found.errors.values()))}")
            failed.result = found  # type: ignore[attr-defined]
            raise failed from next(iter(found.errors.values()))
        return found

    def _check(self) -> None:
        """Raise ``UnsupportedModel`` where branches cannot run in one pass."""
        ctx = self.loop.request.ctx
        if why := why_apart(ctx):
            message = f"search cannot run on {ctx.adapter.name}: its branches share passes, and {why}"
            raise UnsupportedModel(message)


def _room(prompt: Prompt, ctx: Context) -> int:
    """Return how many tokens an answer may have; raises ``BadPrompt`` where K/V would depend on the prompt's length."""
    found = ctx.adapter.capabilities
    room = min(found.context, found.stable_context) - len(prompt.ids)
    if room < 1:
        message = (
            f"{len(prompt.ids)} tokens are too many to search behind: beyond {found.stable_context} tokens this"
            " model's KV depends on the prompt's length"
        )
        raise BadPrompt(message)
    return room
