"""``why.gain``: what ``result.why`` says a cure saves, against what that cure saved, for every way of missing."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import FalconH1Config, FalconH1ForCausalLM, PreTrainedTokenizerFast

import nbkv
from nbkv.bench.measure import BenchRow
from nbkv.bench.models import TINY, Bench, make
from nbkv.misses import Cause
from nbkv.prompts.prompt import PromptLike
from nbkv.result import Chunk, Result
from nbkv.session.session import Session

NAME, NEW, NEAR = "why.gain", 24, 0.15
_CONTEXT = 768
_OWN = ("<think>", "</think>", "x", "y", "xy")  # words besides w0, w1, …
_TEMPLATE = "w1 {n} w2 {% for m in messages %}w3 {{ m['content'] }} w4 {% endfor %}"
_COUNTING = _TEMPLATE.replace("{n}", "{{ 'w' ~ (90 + messages|length) }}")


def run(*, shape: str | None, context: int | None, rounds: int, peers: bool) -> list[BenchRow]:  # noqa: ARG001  (no peer)
    """Measure the TTFT of each miss and of its cure in turn; a note has the difference, predicted and measured."""
    bench, rows = make(shape or TINY, torch.float32), []
    with ExitStack() as stack:
        ways = _Ways(bench, context or _CONTEXT, stack)
        for cause, way in ways.all():
            tries = [way() for _ in range(rounds + 1)][1:]  # the first has the costs measured
            missed = statistics.median(miss.timing.ttft_s for miss, _ in tries)
            cured = statistics.median(cure.timing.ttft_s for _, cure in tries)
            found = [miss.why.of(cause) for miss, _ in tries]
            said = statistics.median(sum(miss.seconds or 0.0 for miss in misses) for misses in found)
            rows.append(
                BenchRow(
                    name=NAME,
                    regime=bench.regime(cached=ways.n, new=NEW, rounds=rounds),
                    against=f"missed: {cause}",
                    baseline=missed,
                    ours=cured,
                    refused="" if all(found) else f"{cause} was not named",
                    notes=(_told(said, missed - cured, missed),),
                )
            )
    return rows


def _told(said: float, saved: float, whole: float) -> str:
    """Return both figures; of a cure that saves nearly nothing the error is told as a share of the TTFT."""
    scale, of = (abs(saved), "of it") if abs(saved) > NEAR * whole else (whole, "of the TTFT")
    off = abs(said - saved) / scale
    return f"{said * 1e3:.1f} ms predicted, {saved * 1e3:.1f} ms measured: {off:.0%} {of} off"


@dataclass
class _Ways:
    """Ways of missing on sessions of one model, each with ``n`` known tokens, and new text every time."""

    bench: Bench
    n: int
    stack: ExitStack

    def __post_init__(self) -> None:
        """Open the sessions."""
        self._seeds = count(1)
        self._tokenizer = _tokenizer(self.bench.vocab)
        model = self.bench.model
        self._main = self._open(model)
        known = self._main.adapter.capabilities
        each = sum(known.kv_size(layer) for layer in range(self._main.adapter.n_layers)) * 4
        self._small = self._open(model, store=f"memory?device={int(1.5 * self.n) * each}B")
        self._other = self._open(model)
        self._tenant = self._open(model, store=self._main.store, tenant="other")
        self._half = self._open(copy.deepcopy(model).to(torch.bfloat16))
        self._recurrent = self._open(_recurrent(self.bench.vocab))

    def all(self) -> Sequence[tuple[Cause, Callable[[], tuple[Result, Result]]]]:
        """Return each cause with what makes a miss by it, and the same request cured."""
        return (
            (Cause.EDITED, self.edited),
            (Cause.MERGED, self.merged),
            (Cause.TEMPLATE, self.template),
            (Cause.THINKING, self.thinking),
            (Cause.ADAPTER, self.weights),
            (Cause.DTYPE, lambda: self.elsewhere(self._half)),
            (Cause.TENANT, lambda: self.elsewhere(self._tenant)),
            (Cause.ELSEWHERE, lambda: self.elsewhere(self._other)),
            (Cause.EVICTED, self.evicted),
            (Cause.CLEARED, self.cleared),
            (Cause.NOT_KEPT, self.not_kept),
            (Cause.STRATEGY, self.strategy),
            (Cause.CHECKPOINT, self.checkpoint),
            (Cause.MOVED, self.moved),
            (Cause.BREAK_EVEN, self.break_even),
        )

    def edited(self) -> tuple[Result, Result]:
        """Change a word in front; cured where it stands behind."""
        text, tail = self._text(), self._new()
        return self._asked(f"w5 {text}", f"w6 w7 {text} {tail}"), self._hit()

    def merged(self) -> tuple[Result, Result]:
        """Write the same text with one token where there were two; cured where there are two again."""
        head, rest = self._new(), self._text()
        missed = self._asked(f"{head} x y {rest}", f"{head} xy {rest}")
        return missed, self._asked(f"{head} x y {rest}")

    def template(self) -> tuple[Result, Result]:
        """Have a chat template count messages in front; cured by one that does not."""
        return self._chat(_COUNTING), self._chat(_TEMPLATE.replace("{n}", "w99"))

    def thinking(self) -> tuple[Result, Result]:
        """Drop the thinking from the history; cured where it stays."""
        asked, thought, answer, more = self._new(), self._text(), self._text(), self._new()
        whole = f"{asked} <think> {thought} </think> {answer}"
        missed = self._asked(whole, f"{asked} {answer} {more}")
        return missed, self._asked(whole, f"{whole} {more}")

    def weights(self) -> tuple[Result, Result]:
        """Change the weights, as another adapter does; cured where they stay."""
        text, tail = self._text(), self._new()
        self._asked(text)
        weight = next(self.bench.model.parameters())
        with torch.no_grad():
            weight[0] += 1
            missed = self._asked(f"{text} {tail}")
            weight[0] -= 1
        return missed, self._hit()

    def elsewhere(self, session: Session) -> tuple[Result, Result]:
        """Have another session hold it, of another dtype, tenant or store; cured where this one does."""
        text, tail = self._text(), self._new()
        session.generate(text, max_new_tokens=1)
        return self._asked(f"{text} {tail}"), self._hit()

    def evicted(self) -> tuple[Result, Result]:
        """Let another text take its place; cured by a larger store."""
        text, other, tail = self._text(), self._text(), self._new()
        asked = [self._small.generate(prompt, max_new_tokens=1) for prompt in (text, other, f"{text} {tail}")]
        return asked[-1], self._hit()

    def cleared(self) -> tuple[Result, Result]:
        """Clear the store; cured where it is left."""
        text, tail = self._text(), self._new()
        self._asked(text)
        self._main.store.clear()
        return self._asked(f"{text} {tail}"), self._hit()

    def not_kept(self) -> tuple[Result, Result]:
        """Compute it by a strategy that keeps nothing; cured by one that does."""
        text, tail = self._text(), self._new()
        self._main.generate(text, max_new_tokens=1, strategy="full")
        return self._asked(f"{text} {tail}"), self._hit()

    def strategy(self) -> tuple[Result, Result]:
        """Ask by a strategy that reads nothing; cured by one that does."""
        text, tail = self._text(), self._new()
        self._asked(text)
        return self._main.generate(f"{text} {tail}", max_new_tokens=1, strategy="full"), self._hit()

    def checkpoint(self) -> tuple[Result, Result]:
        """Part from a prompt where nobody kept states; cured for the third."""
        text = self._text()
        asked = [self._recurrent.generate(f"{text} {self._new()}", max_new_tokens=1) for _ in range(3)]
        return asked[1], asked[2]

    def moved(self) -> tuple[Result, Result]:
        """Have two texts change places; cured where both are chunks."""
        one, two, tail = self._text(), self._text(), self._new()
        missed = self._asked(f"{one} {two}", f"{two} {one} {tail}")
        one, two = self._text(), self._text()
        return missed, self._blended("blend", two, one, front=())

    def break_even(self) -> tuple[Result, Result]:
        """Offer a chunk too short to pay: what it would have cost is told as a saving below nothing."""
        missed, blended = (
            self._blended(strategy, self._new(), front=(self._new(),))  # in front of neither anything is known
            for strategy in ("auto", "blend")
        )
        return missed, blended

    def _hit(self) -> Result:
        text = self._text()
        return self._asked(text, f"{text} {self._new()}")

    def _asked(self, *prompts: PromptLike) -> Result:
        return [self._main.generate(prompt, max_new_tokens=1) for prompt in prompts][-1]

    def _chat(self, template: str) -> Result:
        self._main.tokenizer.chat_template = template
        said = [{"role": "user", "content": self._text()}]
        more = [*said, {"role": "assistant", "content": "w9"}, {"role": "user", "content": self._new()}]
        try:
            return self._asked(said, more)
        finally:
            self._main.tokenizer.chat_template = None

    def _blended(self, strategy: str, *texts: str, front: Sequence[str]) -> Result:
        chunks = [self._main.chunk(text, name=f"text{number}", sink="dummy") for number, text in enumerate(texts)]
        parts: list[str | Chunk | Result] = [*front, *chunks, self._new()]
        return self._main.generate(parts, max_new_tokens=1, strategy=strategy)

    def _text(self) -> str:
        return self._words(self.n)

    def _new(self) -> str:
        return self._words(NEW)

    def _words(self, n: int) -> str:
        ids = self.bench.ids(n, seed=next(self._seeds))
        return self.bench.text([each % (self.bench.vocab - len(_OWN) - 100) + 100 for each in ids])

    def _open(self, model: object, **options: object) -> Session:
        given = {"tokenizer": self._tokenizer, "strategy": "prefix"} | options
        return self.stack.enter_context(nbkv.load(model, **given))  # type: ignore[arg-type]  # as load takes them


def _tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of words, of which ``x`` and ``y`` make one token where nothing is between them."""
    words = {f"w{token}": token for token in range(vocab - len(_OWN))}
    words |= {word: len(words) + at for at, word in enumerate(_OWN)}
    backend = Tokenizer(models.WordLevel(words, unk_token="w0"))  # noqa: S106  (a token of text)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def _recurrent(vocab: int) -> Any:  # noqa: ANN401  (as transformers has it)
    config = FalconH1Config(vocab_size=vocab, hidden_size=128, intermediate_size=256, num_hidden_layers=4)
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 4, 2, 32
    config.mamba_d_ssm, config.mamba_n_heads, config.mamba_d_head, config.mamba_d_state = 256, 8, 32, 16
    model = FalconH1ForCausalLM(config).eval()
    model.generation_config.eos_token_id = None
    return model
