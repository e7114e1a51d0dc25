"""What a model has, as far as reuse is concerned; read from its config and from the cache a probe filled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nbkv.kv import KV

_CHUNKED = "chunked_attention"


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """The record a strategy's needs are checked against.

    ``positions`` is ``rotary``, ``absolute``, ``alibi`` or ``none``; ``rope`` the rotary kind (``default``, ``yarn``);
    ``windows`` the sliding window of each layer in tokens (None: sees everything), ``attention_chunk`` the length of
    the chunks that layers of chunked attention see; ``kv_heads``, ``key_dim`` and
    ``value_dim`` are per layer as cached; ``groups`` query heads per K/V head; ``context`` the longest prompt plus
    answer in tokens; ``stable_context`` up to how many tokens K/V do not depend on how long the whole sequence is
    (shorter than ``context`` for longrope and dynamic NTK); ``rope_switch`` the position from which longrope turns all
    tokens by other angles. The last four are what the self-test found: the layer walk, continuing from our cache,
    decoding with the family's own cache. ``relocation``: cached keys can be moved to another position, exactly, and
    scattered rows be run again by true position. ``attention``: its attention weights can be looked at. ``ranges``: its
    attention can be computed over ranges of keys instead of under a mask. ``states``: its recurrent layers keep states,
    of ``state_bytes`` bytes in all, and go on from a clone of them in a pass over several tokens (``passes``) or over
    one at a time only (``tokens``); empty: it has none, or does not go on from them. ``block``: it decodes so many
    tokens together, which all see each other, also where KV is made (None: that is causal); ``canvas``: so many tokens
    are decoded together over KV that is causal. ``refused`` says for what is false why it is so.
    """

    n_layers: int
    layer_types: tuple[str, ...]
    windows: tuple[int | None, ...]
    attention_chunk: int | None
    positions: str
    rope: str | None
    kv_heads: tuple[int, ...]
    key_dim: tuple[int, ...]
    value_dim: tuple[int, ...]
    groups: int
    softcap: float | None
    latent: bool
    recurrent: bool
    shared_kv: bool
    context: int
    stable_context: int
    rope_switch: int | None
    walk: bool = False
    prefix: bool = False
    own_cache: bool = False
    relocation: bool = False
    attention: bool = False
    ranges: bool = False
    block: int | None = None
    canvas: int | None = None
    states: str = ""
    state_bytes: int = 0
    refused: dict[str, str] = field(default_factory=dict, hash=False)

    def reach(self, layer: int) -> tuple[int | None, int | None]:
        """Return how far back a row of ``layer`` sees: the window, and the length of the chunks it stays in."""
        chunk = self.attention_chunk if self.layer_types[layer] == _CHUNKED else None
        return self.windows[layer], chunk

    def kv_size(self, layer: int) -> int:
        """Return how many numbers one token's K and V in ``layer`` are; 0 where it uses those of another layer."""
        if layer >= len(self.kv_heads):
            return 0
        return self.kv_heads[layer] * (self.key_dim[layer] + self.value_dim[layer])

    @property
    def causal(self) -> bool:
        """Return whether answers are decoded token by token, none of which depends on a later one."""
        return self.blockwise is None

    @property
    def blockwise(self) -> int | None:
        """Return how many tokens are decoded together, in a block or on a canvas; None if the model is causal."""
        return self.block or self.canvas

    @property
    def branches(self) -> bool:
        """Return whether its attention may be computed in parts, over keys in several places."""
        own = len(self.kv_heads) == self.n_layers and all(self.kv_heads) and not self.shared_kv
        return self.ranges and self.causal and self.per_token and own

    @property
    def per_token(self) -> bool:
        """Return whether all that its layers keep belongs to single tokens, as K/V do and states do not."""
        return not self.states

    def whole(self, tokens: int) -> int:
        """Return how many of the first ``tokens`` tokens make whole blocks: all of them where the model is causal."""
        return tokens if self.block is None else tokens // self.block * self.block

    def why_not(self, need: str) -> str:
        """Return the reason this model lacks ``need``, an attribute that is false."""
        if need == "causal":
            return f"it decodes in blocks of {self.blockwise} tokens that see each other"
        if need == "per_token":
            return "its recurrent layers sum up all tokens before in states"
        return self.refused.get(need, "it decodes token by token" if need == "blockwise" else f"it has no {need}")


def read(config: Any, model: nn.Module, kv: KV | None, block: int | None = None) -> Capabilities:  # noqa: ANN401
    """Return what ``config`` (of the text decoder) and the K/V that a probe cached tell; nothing proved yet.

    A model that decodes in blocks of ``block`` tokens has room for whole ones, while its KV do not depend on length.
    """
    n_layers = int(config.num_hidden_layers)
    types = tuple(config_value(config, "layer_types") or _uniform(config) * n_layers)
    heads = int(config_value(config, "num_attention_heads", 0) or 0)
    kv_heads = tuple(int(k.shape[0]) for k in kv.keys) if kv else ()
    rope = rope_kind(config)
    context, stable = _context(config), _stable_context(config, rope)
    if block is not None:
        context = stable = min(context, stable) // block * block
    return Capabilities(
        n_layers=n_layers,
        layer_types=types,
        windows=tuple(_window(config, kind, layer) for layer, kind in enumerate(types)),
        attention_chunk=config_value(config, "attention_chunk_size"),
        positions=_positions(config, model),
        rope=rope,
        kv_heads=kv_heads,
        key_dim=tuple(int(k.shape[-1]) for k in kv.keys) if kv else (),
        value_dim=tuple(int(v.shape[-1]) for v in kv.values) if kv else (),
        groups=heads // most if (most := max(kv_heads, default=0)) else 1,
        softcap=config_value(config, "attn_logit_softcapping"),
        latent=config_value(config, "kv_lora_rank") is not None,
        recurrent=recurrent(types),
        shared_kv=bool(config_value(config, "num_kv_shared_layers")),
        context=context,
        stable_context=stable,
        rope_switch=stable if rope and "longrope" in rope and block is None else None,
        block=block,
        canvas=getattr(model, "canvas_length", None),
    )


def config_value(config: Any, name: str, default: Any = None, layer: int = 0) -> Any:  # noqa: ANN401
    """Return ``config.name``, of ``layer`` where a config gives it for each layer apart."""
    try:
        return getattr(config, name, default)
    except RuntimeError:  # transformers' refusal to give one value for all layers
        return getattr(config.per_layer_config[layer], name, default)


def recurrent(types: tuple[str, ...]) -> bool:
    """Return whether any of the layer ``types`` keeps a state instead of K/V."""
    return any(word in kind for kind in types for word in ("linear", "mamba", "conv", "recurrent"))


def rope_kind(config: Any) -> str | None:  # noqa: ANN401
    """Return the rotary kind named by ``config`` (``default`` if unnamed; kinds joined where layer types differ)."""
    parameters = config_value(config, "rope_parameters")
    if not parameters:
        return None
    if "rope_type" in parameters:
        return str(parameters["rope_type"])
    kinds = {p.get("rope_type", "default") for p in parameters.values() if isinstance(p, dict)}
    return "+".join(sorted(kinds)) or "default"


def _window(config: Any, kind: str, layer: int) -> int | None:  # noqa: ANN401
    return config_value(config, "sliding_window", layer=layer) if "sliding" in kind else None


def _context(config: Any) -> int:  # noqa: ANN401
    told = int(config_value(config, "max_position_embeddings", 0) or config_value(config, "n_positions") or 0)
    return told if told > 0 else 2**31


def _stable_context(config: Any, rope: str | None) -> int:  # noqa: ANN401
    if rope is None or not {"longrope", "dynamic"} & set(rope.split("+")):
        return _context(config)
    parameters = config.rope_parameters
    original = parameters.get("original_max_position_embeddings")
    original = original or config_value(config, "original_max_position_embeddings") or config.max_position_embeddings
    return int(original) - ("dynamic" in rope)  # dynamic NTK: at the original length itself the angles may still be old


def _uniform(config: Any) -> tuple[str]:  # noqa: ANN401
    return ("sliding_attention",) if config_value(config, "sliding_window") else ("full_attention",)


def _positions(config: Any, model: nn.Module) -> str:  # noqa: ANN401
    if config_value(config, "alibi") or getattr(config, "model_type", "") in {"bloom", "mpt"}:
        return "alibi"
    names = {type(module).__name__ for module in model.modules()}
    if any("Rotary" in name for name in names) or config_value(config, "rotary_dim"):
        return "rotary"
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    learned = len(embeddings) > 1
    return "absolute" if learned else "none"
