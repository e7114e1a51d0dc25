"""How a block-diffusion checkpoint wants to be decoded: block, mask token, and what its family does differently."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nbkv.errors import BadOption, UnsupportedModel
from nbkv.scalars import is_whole

_WRITTEN_SO = "block_diffusion"  # value of the config entry `nbkv_decoding` of checkpoints trained with nbkv


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decoding in blocks needs to know of a model.

    ``block`` tokens are filled together, ``mask`` is the id of a token still open. ``shifted``: the logits of a row
    are those of the token after it, as in a causal model. ``sub_block``: the part of a block that is filled before
    the next one is begun. ``sizes`` are other lengths of a block that the model was trained for (empty: any that
    divides ``block``), ``unmask`` is the rule it is published with.
    """

    block: int
    mask: int
    shifted: bool = False
    sub_block: int | None = None
    sizes: tuple[int, ...] = ()
    unmask: str = "dynamic(threshold=0.9)"

    def resized(self, block: object, name: str) -> Recipe:
        """Return this recipe with blocks of ``block`` tokens; raises ``BadOption`` if ``name`` cannot do that."""
        if block is None or block == self.block:
            return self
        fitting = self.sizes or tuple(size for size in range(1, self.block + 1) if self.block % size == 0)
        if not is_whole(block) or block not in fitting:
            accepted = ", ".join(map(str, sorted({*fitting, self.block})))
            message = f"block_size={block!r} is not accepted: {name} decodes in blocks of {self.block} ({accepted})"
            raise BadOption(message)
        block = int(block)
        sub_block = self.sub_block if self.sub_block is not None and block % self.sub_block == 0 else None
        return replace(self, block=block, sub_block=sub_block)


def recipe(config: Any, tokenizer: Any, name: str, block_size: int | None = None) -> Recipe | None:  # noqa: ANN401  (a transformers config and tokenizer)
    """Return how the model with ``config`` is decoded in blocks, or None if it is causal.

    Its config says ``block_size`` and ``mask_token_id`` (which the tokenizer may tell instead), and where they differ
    from a ``Recipe``'s defaults ``block_sizes``, ``sub_block_size``, ``shifted_logits``, ``unmask``. Raises
    ``UnsupportedModel`` for a causal model or a missing mask token, ``BadOption`` for a ``block_size`` it was not made
    for.
    """
    told = getattr(config, "block_size", None)
    mask = getattr(config, "mask_token_id", None)
    mask = getattr(tokenizer, "mask_token_id", None) if mask is None else mask
    declared = getattr(config, "nbkv_decoding", None) == _WRITTEN_SO
    if not declared and (told is None or mask is None) and block_size is None:
        return None
    if told is None:
        message = (
            f"{name} is causal and decodes token by token: its config has no block_size "
            "(leave block_size out, or load a block-diffusion checkpoint)"
        )
        raise UnsupportedModel(message)
    if mask is None:
        message = (
            f"{name} decodes in blocks of {told} but has no mask token "
            "(set mask_token_id in its config.json, or the tokenizer's mask_token)"
        )
        raise UnsupportedModel(message)
    return Recipe(
        block=int(told),
        mask=int(mask),
        shifted=bool(getattr(config, "shifted_logits", False)),
        sub_block=getattr(config, "sub_block_size", None),
        sizes=tuple(int(size) for size in getattr(config, "block_sizes", None) or ()),
        unmask=str(getattr(config, "unmask", None) or Recipe.unmask),
    ).resized(block_size, name)
