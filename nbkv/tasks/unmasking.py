"""A plain loop in which a block-diffusion reader answers items: block by block, the surest token first."""

from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from nbkv.tasks.items import Item

_ROOM = 16


def answered(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    item: Item,
    block: int,
    threshold: float = 1.0,
) -> tuple[bool, int, int]:
    """Tell whether the model gives exactly the item's answer, how many tokens it said and in how many passes."""
    prompt = tokenizer("".join(item.chunks) + item.question).input_ids
    wanted = [*tokenizer.encode(" ".join(item.answers), add_special_tokens=False), int(tokenizer.eos_token_id)]
    said, passes = answer(model, prompt, block, len(wanted) + _ROOM, threshold)
    return said == wanted, len(said), passes


@torch.inference_mode()
def answer(
    model: PreTrainedModel, prompt: list[int], block: int, room: int, threshold: float = 1.0
) -> tuple[list[int], int]:
    """Give the tokens said after `prompt`, at most `room` of them, up to `</s>`; and the number of denoising passes.

    Each pass fills the masked token the model is surest of, and those whose probability is above `threshold`. The
    prompt's tokens that fill no whole block open the first one.
    """
    mask, end = model.config.mask_token_id, model.config.eos_token_id
    whole = len(prompt) // block * block
    cache: Any = DynamicCache(config=model.config)
    if whole:
        _rows(model, prompt[:whole], cache, block)
    text, passes = list(prompt), 0
    while len(text) < len(prompt) + room and end not in text[len(prompt) :]:
        known = text[len(text) // block * block :]
        filled = known + [mask] * (block - len(known))
        while mask in filled:
            chances = _rows(model, filled, cache, block).float().softmax(-1)
            cache.crop(-block)
            filled, passes = _filled(filled, chances, mask, threshold), passes + 1
        _rows(model, filled, cache, block)
        text += filled[len(known) :]
    said = text[len(prompt) :][:room]
    return (said[: said.index(end) + 1] if end in said else said), passes


def _rows(model: PreTrainedModel, ids: list[int], cache: Any, block: int) -> torch.Tensor:  # noqa: ANN401
    # Logits [B, V] of the last block; each of the ids sees its own block and all before it.
    start = cache.get_seq_length()
    at = torch.arange(start, start + len(ids), device=model.device)
    seen = at[:, None] // block >= torch.arange(start + len(ids), device=model.device) // block
    return model(
        input_ids=torch.tensor([ids], device=model.device),
        position_ids=at[None],
        attention_mask=seen[None, None],
        past_key_values=cache,
        logits_to_keep=block,
    ).logits[0]


def _filled(ids: list[int], chances: torch.Tensor, mask: int, threshold: float) -> list[int]:
    sure, best = chances.max(-1)
    sure = sure.where(torch.tensor([token == mask for token in ids], device=sure.device), -1.0)
    surest = int(sure.argmax())
    return [int(best[at]) if at == surest or sure[at] > threshold else token for at, token in enumerate(ids)]
