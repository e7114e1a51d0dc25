"""The decode loop's parts: choosing the next token by transformers' own processors, and turning tokens into text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from nbkv.errors import BadOption, closest
from nbkv.models import unmask


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How an answer is drawn; ``temperature`` 0 is greedy. The other fields are transformers' own words.

    ``unmask`` is the rule by which a block-diffusion model fills a block (None: the one it is published with).
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    logits_processor: Sequence[Callable[..., torch.Tensor]] = ()
    stopping_criteria: Sequence[Callable[..., Any]] = ()
    unmask: str | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range, one line each."""
        _check("max_new_tokens", self.max_new_tokens, "a whole number >= 1", _is_int(self.max_new_tokens, 1))
        _check("temperature", self.temperature, "a number >= 0", _is_number(self.temperature) and self.temperature >= 0)
        _check("seed", self.seed, "a whole number >= 0", _is_int(self.seed, 0))
        good = self.top_p is None or (_is_number(self.top_p) and 0 < self.top_p <= 1)
        _check("top_p", self.top_p, "a number in (0, 1]", good)
        _check("top_k", self.top_k, "a whole number >= 1", self.top_k is None or _is_int(self.top_k, 1))
        good = self.repetition_penalty is None or (_is_number(self.repetition_penalty) and self.repetition_penalty > 0)
        _check("repetition_penalty", self.repetition_penalty, "a number > 0", good)
        good = all(isinstance(text, str) and text for text in self.stop)
        _check("stop", self.stop, "text or a list of texts, none empty", good)
        if self.unmask is not None:
            unmask.parse(self.unmask)


def sampling(stop: str | Sequence[str] | None, options: dict[str, Any]) -> Sampling:
    """Return the ``Sampling`` of a call's keyword options; unknown ones raise ``BadOption``."""
    known = [field.name for field in fields(Sampling)]
    for name in options:
        if name not in known:
            message = f"unknown option {name!r}{closest(name, known)} (accepted: {', '.join(known)})"
            raise BadOption(message)
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    return Sampling(stop=stops, **options)


class Chooser:
    """Picks the next token from logits, with the model's generation config where a caller leaves something open."""

    def __init__(self, wanted: Sampling, config: Any, prompt: Sequence[int], device: torch.device) -> None:  # noqa: ANN401  (a generation config)
        """Prepare for one answer to ``prompt``; ``config`` is the model's generation config."""
        self._ids = list(prompt)
        self._device = str(device)
        self._greedy = wanted.temperature == 0
        self._processors = _processors(wanted, config, len(prompt), str(device))
        self._criteria = StoppingCriteriaList(wanted.stopping_criteria)
        self._generator = None if self._greedy else torch.Generator(device=device).manual_seed(wanted.seed)

    @property
    def plain(self) -> bool:
        """Return whether it always picks the largest logit."""
        return self._greedy and not self._processors

    def choose(self, logits: torch.Tensor) -> int:
        """Return the next token's id for ``logits`` ``[V]``."""
        if self.plain:
            return int(logits.argmax())
        scores: torch.Tensor = self._processors(self._so_far(), logits[None].to(torch.float32, copy=True))
        if self._generator is None:
            return int(scores[0].argmax())
        chances = torch.softmax(scores, dim=-1)
        return int(torch.multinomial(chances, 1, generator=self._generator))

    def add(self, token: int, logits: torch.Tensor) -> bool:
        """Take ``token`` into the sequence; return whether a stopping criterion ends the answer."""
        self._ids.append(token)
        return bool(self._criteria) and bool(self._criteria(self._so_far(), logits[None]).all())

    def _so_far(self) -> torch.LongTensor:
        return torch.tensor([self._ids], device=self._device)  # type: ignore[return-value]  # transformers' narrow type


def eos_ids(config: Any) -> frozenset[int]:  # noqa: ANN401  (a generation config)
    """Return every token id that ends an answer by the model's generation config, as in ``generate``."""
    eos = getattr(config, "eos_token_id", None)
    if eos is None:
        return frozenset()
    return frozenset(eos if isinstance(eos, (list, tuple)) else [eos])


def _processors(wanted: Sampling, config: Any, n_prompt: int, device: str) -> LogitsProcessorList:  # noqa: ANN401  (a generation config)
    chosen = LogitsProcessorList()
    if wanted.repetition_penalty is not None:
        chosen.append(RepetitionPenaltyLogitsProcessor(wanted.repetition_penalty))
    if getattr(config, "suppress_tokens", None):
        chosen.append(SuppressTokensLogitsProcessor(config.suppress_tokens, device=device))
    if getattr(config, "begin_suppress_tokens", None):
        chosen.append(SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, n_prompt, device=device))
    chosen.extend(wanted.logits_processor)
    if wanted.temperature > 0:
        top_k = wanted.top_k if wanted.top_k is not None else getattr(config, "top_k", None)
        top_p = wanted.top_p if wanted.top_p is not None else getattr(config, "top_p", None)
        if wanted.temperature != 1.0:
            chosen.append(TemperatureLogitsWarper(float(wanted.temperature)))
        if top_k:
            chosen.append(TopKLogitsWarper(top_k))
        if top_p is not None and top_p < 1.0:
            chosen.append(TopPLogitsWarper(float(top_p)))
    return chosen


def _check(name: str, value: object, accepted: str, good: bool) -> None:  # noqa: FBT001
    if not good:
        message = f"{name}={value!r} is not accepted: {name} is {accepted}"
        raise BadOption(message)


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value  # noqa: PLR0124  (NaN)
