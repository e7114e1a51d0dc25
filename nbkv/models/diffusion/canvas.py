"""DiffusionGemma: a causal encoder whose KV are reused like any others, and a decoder that paints canvases over them.

The decoder reads the encoder's KV and writes none; all tokens of its canvas change in every pass until it settles. How
they are drawn is transformers' own code (``DiffusionGemmaGenerationMixin``), driven here pass by pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, LogitsProcessorList
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

from nbkv.errors import BadOption
from nbkv.models.attention.intercept import implementation
from nbkv.models.caches.base import SequenceCache
from nbkv.models.diffusion.block import Block
from nbkv.models.sampling import Sampling
from nbkv.models.unmask import Entropy, parse

_KIND = "diffusion_gemma"


def is_canvas_model(network: Any) -> bool:  # noqa: ANN401  (transformers types no native model)
    """Return whether ``network`` is a DiffusionGemma with its head."""
    return getattr(network.config, "model_type", "") == _KIND and hasattr(network, "lm_head")


class Encoder(nn.Module):
    """The encoder as a causal language model: the model's own head on top, so that there are logits to prove it on.

    What it lacks is the attribute of the ``native`` model.
    """

    def __init__(self, native: Any) -> None:  # noqa: ANN401  (transformers types no native model)
        """Take over a ``DiffusionGemmaForBlockDiffusion``."""
        super().__init__()
        self.native = native
        self.canvas_length = int(native.config.canvas_length)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (transformers types no native model)
        """Return what the native model has."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("native"), name)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: Any = None,  # noqa: ANN401  (a mask, or one for each type of layer)
        position_ids: torch.Tensor | None = None,
        past_key_values: Any = None,  # noqa: ANN401  (transformers types no native model)
        logits_to_keep: int = 0,
        **given: Any,  # noqa: ANN401  (transformers types no native model)
    ) -> CausalLMOutput:
        """Run tokens through the encoder; the logits ``[1, n, V]`` are no prediction, only a proof of what was run."""
        given |= {"attention_mask": attention_mask, "position_ids": position_ids, "past_key_values": past_key_values}
        hidden = self.native.model.encoder(input_ids=input_ids, **given).last_hidden_state
        return CausalLMOutput(logits=self.native.lm_head(hidden[:, -logits_to_keep:]))


@dataclass(frozen=True, eq=False)
class CanvasDecoder:
    """The decoder of a ``native`` DiffusionGemma over a cache of ours, and its sampler."""

    native: Any

    @property
    def length(self) -> int:
        """Return the number of tokens painted together."""
        return int(self.native.config.canvas_length)

    def opened(self, start: int, seed: int = 0) -> Block:
        """Return a canvas of random tokens at ``start``, as the sampler would begin with ``seed``."""
        ids = torch.randint(
            self.native.config.text_config.vocab_size,
            (self.length,),
            generator=torch.Generator().manual_seed(seed),
        ).to(self.native.device)
        return _painted(start, ids, 0, None)

    def denoise(
        self, ids: torch.Tensor, cache: SequenceCache, start: int, conditioning: torch.Tensor | None
    ) -> torch.Tensor:
        """Run one pass over ``ids`` ``[C]``, which attend to ``cache`` and to each other; return logits ``[C, V]``."""
        positions = torch.arange(start, start + self.length, device=ids.device)[None]
        with torch.no_grad():
            out = self.native(
                decoder_input_ids=ids[None],
                self_conditioning_logits=conditioning,
                decoder_attention_mask=self._mask(start, ids.device),
                past_key_values=cache.model_argument,
                decoder_position_ids=positions,
            )
        logits: torch.Tensor = out.logits[0]
        return logits

    def plain(self, ids: torch.Tensor, block: Block) -> torch.Tensor:
        """Return the logits ``[C, V]`` of a first pass over ``block``, by the model's own forward and its own cache."""
        cache = DynamicCache(config=self.native.config.get_text_config())  # the one `generate` makes
        asked = {"input_ids": ids[None], "decoder_input_ids": block.ids[None], "past_key_values": cache}
        with torch.no_grad():
            logits: torch.Tensor = self.native(**asked).logits[0]
        return logits

    def check_sampling(self, wanted: Sampling) -> None:
        """Raise ``BadOption`` for temperature, top-p, top-k and penalties, and any rule but ``entropy``.

        DiffusionGemma draws by its own schedule, so they would be ignored.
        """
        for name in ("temperature", "top_p", "top_k", "repetition_penalty"):
            if getattr(wanted, name):
                message = (
                    f"{name}={getattr(wanted, name)!r} is not accepted: DiffusionGemma draws by its own schedule "
                    "(leave it out, or set t_min and t_max in the model's generation_config)"
                )
                raise BadOption(message)
        if wanted.unmask is not None and not isinstance(parse(wanted.unmask), Entropy):
            message = f"unmask={wanted.unmask!r} is not accepted: DiffusionGemma's rule is entropy(bound=…)"
            raise BadOption(message)

    def _mask(self, start: int, device: torch.device) -> dict[str, torch.Tensor | None]:
        """Return the canvas's mask over a cache that holds everything: in sliding layers, the window before it."""
        config = self.native.config.text_config
        behind = start - (config.sliding_window - 1)
        if behind <= 0:
            return dict.fromkeys(("full_attention", "sliding_attention"))
        seen = torch.arange(start + self.length, device=device) >= behind
        mask = seen.expand(1, 1, self.length, -1)
        if implementation(config) == "eager":
            floor = torch.finfo(self.native.dtype).min
            mask = torch.zeros(mask.shape, dtype=self.native.dtype, device=device).masked_fill(~mask, floor)
        return {"full_attention": None, "sliding_attention": mask}


class Painter:
    """DiffusionGemma's own sampler at work on one answer, canvas after canvas.

    It draws from torch's global generators, so each canvas is painted in a fork of them that begins where the one
    before ended: the same tokens as ``generate`` gives after ``torch.manual_seed(seed)``.
    """

    def __init__(self, canvas: CanvasDecoder, wanted: Sampling) -> None:
        """Prepare what ``generate`` prepares."""
        native = canvas.native
        changes: dict[str, Any] = {}
        if wanted.unmask is not None:
            rule = parse(wanted.unmask)
            assert isinstance(rule, Entropy)  # noqa: S101  (``CanvasDecoder.check_sampling``)
            changes["sampler_config"] = EntropyBoundSamplerConfig(entropy_bound=float(rule.bound))
        config, _ = native._prepare_generation_config(None, **changes)  # noqa: SLF001  (generate's own steps)
        self._native, self._canvas, self.config = native, canvas, config
        self._sampler = native._prepare_sampler(config)  # noqa: SLF001
        given = LogitsProcessorList(wanted.logits_processor)
        self._processors = native._prepare_logits_processor(config, given)  # noqa: SLF001
        self._settled = native._prepare_diffusion_stopping_criteria(config)  # noqa: SLF001
        self._device = native.device
        with self._forked():
            torch.manual_seed(wanted.seed)
            self._states = self._now()

    @property
    def spec(self) -> str:
        """Return the rule by which tokens are accepted."""
        return f"entropy(bound={self.config.sampler_config.entropy_bound:g})"

    @property
    def note(self) -> str:
        """Return how tokens are drawn, since the usual options do not say it."""
        config = self.config
        return f"drawn by the model's own schedule, temperature {config.t_max:g} to {config.t_min:g}, from the seed"

    def paint(
        self, ids: Sequence[int], denoise: Callable[[Block], torch.Tensor], tick: Callable[[], None]
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Paint the canvas behind ``ids``; return its tokens ``[C]``, the scores ``[C, V]`` they have, and the passes.

        ``denoise`` runs one pass and gives its logits ``[C, V]``; ``tick`` is called after each and may raise.
        """
        with self._rolling():
            canvas = self._sampler.initialize_canvas(batch_size=1, device=self._device)
            if self._settled is not None:
                self._settled.reset()
            best, told, step = canvas, None, 0
            finished = torch.zeros(1, dtype=torch.bool, device=self._device)

            def decoder(*, decoder_input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:  # noqa: ANN401  (transformers types no native model)
                return SimpleNamespace(logits=denoise(_painted(len(ids), decoder_input_ids[0], step, told))[None])

            so_far = torch.tensor([ids], device=self._device)
            for step in range(self.config.max_denoising_steps):
                canvas, best, told, finished = self._native._denoising_step(  # noqa: SLF001
                    decoder_forward=decoder,
                    current_canvas=canvas,
                    argmax_canvas=best,
                    input_ids=so_far,
                    decoder_position_ids=None,
                    self_conditioning_logits=told,
                    mask_mapping=None,
                    past_key_values=None,
                    finished_denoising=finished,
                    cur_step=self.config.max_denoising_steps - step,
                    sampler=self._sampler,
                    logits_processor=self._processors,
                    diffusion_stopping_criteria=self._settled,
                )
                if bool(finished.all()):
                    break
                tick()
        assert told is not None  # noqa: S101
        return best[0], told[0], step + 1

    @contextmanager
    def _rolling(self) -> Iterator[None]:
        with self._forked():
            torch.set_rng_state(self._states[0])
            if len(self._states) > 1:
                torch.cuda.set_rng_state(self._states[1], self._device)
            try:
                yield
            finally:
                self._states = self._now()

    def _forked(self) -> Any:  # noqa: ANN401  (a context manager)
        return torch.random.fork_rng([self._device] if self._device.type == "cuda" else [])

    def _now(self) -> list[torch.Tensor]:
        states = [torch.get_rng_state()]
        return [*states, torch.cuda.get_rng_state(self._device)] if self._device.type == "cuda" else states


def _painted(start: int, ids: torch.Tensor, step: int, conditioning: torch.Tensor | None) -> Block:
    """Return a canvas as a block whose tokens are all still open."""
    none = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    return Block(start, ids, ~none, step, none, conditioning)
