"""The decode loop's parts: choosing the next token by transformers' own processors, and turning tokens into text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteriaList,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from nbkv.errors import BadOption, closest
from nbkv.models import unmask
from nbkv.scalars import is_number, is_whole, kind_of, plain

_STOPS = "text or a list of texts, none empty"
_SEEDS = 2**64  # torch's generators take no larger ones
# What ``generate`` takes where neither its caller nor the model's generation config says anything.
_GENERATE: Mapping[str, object] = MappingProxyType({"top_k": 50})
# Settings of a generation config that change which token is picked, and the values at which they change nothing.
# Draws take those of ``_DRAWN``; all else is set aside, which is said.
_NEUTRAL: Mapping[str, tuple[object, ...]] = MappingProxyType(
    {
        "repetition_penalty": (1.0,),
        "no_repeat_ngram_size": (0,),
        "bad_words_ids": ([],),
        "sequence_bias": ({}, []),
        "min_length": (0,),
        "min_new_tokens": (0,),
        "forced_bos_token_id": (),
        "forced_eos_token_id": (),
        "exponential_decay_length_penalty": (),
        "guidance_scale": (1, 1.0),
        "watermarking_config": (),
        "stop_strings": ([], ()),
    }
)
_DRAWN = ("repetition_penalty", "no_repeat_ngram_size")


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
        """Refuse values out of range, one line each; numpy's numbers become Python's, and lists are copied."""
        _check("max_new_tokens", self.max_new_tokens, "a whole number >= 1", is_whole(self.max_new_tokens, 1))
        good = is_number(self.temperature) and 0 <= self.temperature < float("inf")
        _check("temperature", self.temperature, "a number >= 0", good)
        _check("seed", self.seed, f"a whole number from 0 to {_SEEDS - 1}", is_whole(self.seed) and self.seed < _SEEDS)
        good = self.top_p is None or (is_number(self.top_p) and 0 < self.top_p <= 1)
        _check("top_p", self.top_p, "a number in (0, 1]", good)
        _check("top_k", self.top_k, "a whole number >= 1, or 0 for all", self.top_k is None or is_whole(self.top_k))
        good = self.repetition_penalty is None or (
            is_number(self.repetition_penalty) and 0 < self.repetition_penalty < float("inf")
        )
        _check("repetition_penalty", self.repetition_penalty, "a number > 0", good)
        _check("stop", self.stop, _STOPS, all(isinstance(text, str) and text for text in self.stop))
        for name in ("max_new_tokens", "temperature", "seed", "top_p", "top_k", "repetition_penalty"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        for name in ("logits_processor", "stopping_criteria"):
            object.__setattr__(self, name, _callables(name, getattr(self, name)))
        _check("unmask", self.unmask, "a rule such as 'dynamic(threshold=0.9)'", isinstance(self.unmask, str | None))
        if self.unmask is not None:
            unmask.parse(self.unmask)


def sampling(stop: str | Sequence[str] | None, options: dict[str, Any], others: Sequence[str] = ()) -> Sampling:
    """Return the ``Sampling`` of a call's keyword options; unknown ones raise ``BadOption``, which names ``others``."""
    known = [field.name for field in fields(Sampling)]
    for name in options:
        if name not in known:
            listed = [*known, *others]
            message = f"unknown option {name!r}{closest(name, listed)} (accepted: {', '.join(listed)})"
            raise BadOption(message)
    return Sampling(stop=_texts(stop), **options)


def _texts(stop: object) -> tuple[str, ...]:
    """Return the strings that end an answer; raises ``BadOption`` for anything but text or a list of texts."""
    if stop is None:
        return ()
    if isinstance(stop, str):
        return (stop,)
    _check("stop", stop, _STOPS, isinstance(stop, Sequence) and not isinstance(stop, (bytes, bytearray, memoryview)))
    return tuple(stop)  # type: ignore[arg-type]  # what is in it is looked at next


def _callables(name: str, given: object) -> tuple[Callable[..., Any], ...]:
    """Return a list of callables as a tuple of our own: nothing of the caller's is read once a request has begun."""
    good = isinstance(given, Sequence) and all(map(callable, given))
    if not good:
        message = f"{name} is {kind_of(given)} (accepted: a list of callables, as transformers takes it)"
        raise BadOption(message)
    return tuple(given)  # type: ignore[arg-type]


class Chooser:
    """Picks the next token from logits, with the model's generation config where a caller leaves something open.

    Drawn, that is what ``generate(do_sample=True)`` would draw with; ``defaults`` stand behind both. Greedy, the config
    gives only the tokens it suppresses.
    """

    defaults: ClassVar[Mapping[str, object]] = _GENERATE

    def __init__(self, wanted: Sampling, config: Any, prompt: Sequence[int], device: torch.device) -> None:  # noqa: ANN401  (a generation config)
        """Prepare for one answer to ``prompt``; ``config`` is the model's generation config."""
        self._ids = list(prompt)
        self._device = str(device)
        self._greedy = wanted.temperature == 0
        self._processors = _processors(wanted, config, len(prompt), str(device), self.defaults)
        self._criteria = StoppingCriteriaList(wanted.stopping_criteria)
        self._generator = None if self._greedy else torch.Generator(device=device).manual_seed(wanted.seed)

    @property
    def plain(self) -> bool:
        """Return whether it always picks the largest logit."""
        return self._greedy and not self._processors

    def branch(self, seed: int) -> Chooser:
        """Return one that has chosen the same tokens and goes on for itself, drawing from ``seed``."""
        other = copy(self)
        drawing = None if self._greedy else torch.Generator(device=self._device).manual_seed(seed)
        vars(other).update(_ids=list(self._ids), _generator=drawing)
        return other

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


def set_aside(wanted: Sampling, config: Any) -> list[str]:  # noqa: ANN401  (a generation config)
    """Return what the generation config asks for that no answer wanted like this gets, as ``name=value``."""
    taken = () if wanted.temperature == 0 else _DRAWN
    found = {name: getattr(config, name, None) for name in _NEUTRAL if name not in taken}
    return [
        f"{name}={value!r:.60}"
        for name, value in found.items()
        if value is not None and value not in _NEUTRAL[name] and getattr(wanted, name, None) is None
    ]


def _processors(
    wanted: Sampling,
    config: Any,  # noqa: ANN401  (a generation config)
    n_prompt: int,
    device: str,
    defaults: Mapping[str, object],
) -> LogitsProcessorList:
    """Return transformers' processors in the order in which ``generate`` has them."""
    drawn = wanted.temperature > 0

    def setting(name: str) -> Any:  # noqa: ANN401  (as generation configs have it)
        given = getattr(wanted, name, None)
        given = getattr(config, name, None) if given is None and drawn else given
        return defaults.get(name) if given is None and drawn else given

    chosen = LogitsProcessorList()
    if (penalty := setting("repetition_penalty")) is not None and penalty != 1.0:
        chosen.append(RepetitionPenaltyLogitsProcessor(float(penalty)))
    if length := setting("no_repeat_ngram_size"):
        chosen.append(NoRepeatNGramLogitsProcessor(length))
    if getattr(config, "suppress_tokens", None):
        chosen.append(SuppressTokensLogitsProcessor(config.suppress_tokens, device=device))
    if getattr(config, "begin_suppress_tokens", None):
        chosen.append(SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, n_prompt, device=device))
    chosen.extend(wanted.logits_processor)
    if drawn:
        if wanted.temperature != 1.0:
            chosen.append(TemperatureLogitsWarper(float(wanted.temperature)))
        chosen.extend(_warpers(setting, device))
    return chosen


def _warpers(setting: Callable[[str], Any], device: str) -> Iterator[LogitsProcessor]:
    if (share := setting("top_h")) is not None:
        yield TopHLogitsWarper(share)
    if k := setting("top_k"):
        yield TopKLogitsWarper(k)
    if (share := setting("top_p")) is not None and share < 1:
        yield TopPLogitsWarper(float(share))
    if (least := setting("min_p")) is not None:
        yield MinPLogitsWarper(least)
    if (share := setting("typical_p")) is not None and share < 1:
        yield TypicalLogitsWarper(share)
    if (cut := setting("epsilon_cutoff")) is not None and 0 < cut < 1:
        yield EpsilonLogitsWarper(cut)
    if (cut := setting("eta_cutoff")) is not None and 0 < cut < 1:
        yield EtaLogitsWarper(cut, device=device)


def _check(name: str, value: object, accepted: str, good: bool) -> None:  # noqa: FBT001
    if not good:
        message = f"{name}={value!r} is not accepted: {name} is {accepted}"
        raise BadOption(message)
