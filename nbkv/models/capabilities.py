"""What a model has, as far as reuse is concerned; read from its config and from the cache a probe filled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from nbkv.kv import KV
from nbkv.show.units import plural

_CHUNKED = "chunked_attention"


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What a strategy's ``needs`` are checked against, all by layer where it says so.

    Read from the config and from the K/V that a probe cached:

    - ``positions``: ``rotary``, ``absolute``, ``alibi`` or ``none``
    - ``windows``: the sliding window of each layer in tokens (None: it attends to all tokens before)
    - ``attention_chunk``: the length of the chunks that layers of chunked attention attend within
    - ``kv_heads``, ``key_dim``, ``value_dim``: of each layer, as cached; ``groups``: query heads per K/V head
    - ``shared_kv``: its last layers use the K/V of earlier ones
    - ``context``: the longest prompt plus answer in tokens; with dynamic NTK its factor times the trained length
    - ``stable_context``: up to how many tokens K/V do not depend on the length of the whole sequence (shorter than
      ``context`` for longrope and dynamic NTK); ``rope_switch``: from which position on longrope takes other angles
    - ``block``: so many tokens are decoded together and attend to each other, also where KV is made (None: causal);
      ``canvas``: so many are decoded together over KV that is causal

    Proved by the self-test:

    - ``walk``: its layers can be run one by one; ``prefix``: it goes on from a cache of ours; ``own_cache``: from its
      family's own
    - ``relocation``: cached keys can be rotated to other positions, and scattered rows be run again
    - ``attention``: its attention weights can be observed; ``ranges``: its attention can be computed over ranges of
      keys instead of under a mask
    - ``states``: it goes on from clones of its recurrent layers' states, ``state_bytes`` bytes in all, in a pass over
      several tokens (``passes``) or over one at a time only (``tokens``); empty: it has none, or does not go on

    ``refused`` says for what is false why it is so.
    """

    n_layers: int
    layer_types: tuple[str, ...]
    windows: tuple[int | None, ...]
    attention_chunk: int | None
    positions: str
    kv_heads: tuple[int, ...]
    key_dim: tuple[int, ...]
    value_dim: tuple[int, ...]
    groups: int
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
        """Return how far rows of ``layer`` attend, in tokens: its window, and the length of its attention chunks."""
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
        if need == "causal" and self.blockwise is not None:
            return f"it decodes in blocks of {plural(self.blockwise, 'token')} that see each other"
        if need == "per_token":
            return "its recurrent layers sum up all tokens before in states"
        return self.refused.get(need, "it decodes token by token" if need == "blockwise" else f"it has no {need}")


def read(config: Any, model: nn.Module, kv: KV | None, block: int | None = None) -> Capabilities:  # noqa: ANN401  (a transformers config)
    """Return what ``config`` (of the text decoder) and the K/V that a probe cached tell; nothing proved yet.

    A model that decodes in blocks of ``block`` tokens has room for whole ones, while its KV do not depend on length.
    """
    n_layers = int(config.num_hidden_layers)
    types = tuple(config_value(config, "layer_types") or _uniform(config) * n_layers)
    heads = int(config_value(config, "num_attention_heads", 0) or 0)
    kv_heads = tuple(int(k.shape[0]) for k in kv.keys) if kv else ()
    rope = rope_kind(config)
    context, stable = _context(config, rope), _stable_context(config, rope)
    if block is not None:
        context = stable = min(context, stable) // block * block
    return Capabilities(
        n_layers=n_layers,
        layer_types=types,
        windows=tuple(_window(config, kind, layer) for layer, kind in enumerate(types)),
        attention_chunk=config_value(config, "attention_chunk_size"),
        positions=_positions(config, model),
        kv_heads=kv_heads,
        key_dim=tuple(int(k.shape[-1]) for k in kv.keys) if kv else (),
        value_dim=tuple(int(v.shape[-1]) for v in kv.values) if kv else (),
        groups=heads // most if (most := max(kv_heads, default=0)) else 1,
        recurrent=recurrent(types),
        shared_kv=bool(config_value(config, "num_kv_shared_layers")),
        context=context,
        stable_context=stable,
        rope_switch=stable if rope and "longrope" in rope and block is None else None,
        block=block,
        canvas=getattr(model, "canvas_length", None),
    )


def config_value(config: Any, name: str, default: Any = None, layer: int = 0) -> Any:  # noqa: ANN401  (a transformers config)
    """Return ``config.name``, or ``default``; of ``layer``, where each layer has a value of its own."""
    try:
        return getattr(config, name, default)
    except RuntimeError:  # transformers' refusal to give one value for all layers
        return getattr(config.per_layer_config[layer], name, default)


def recurrent(types: tuple[str, ...]) -> bool:
    """Return whether any of the layer ``types`` keeps a state instead of K/V."""
    return any(word in kind for kind in types for word in ("linear", "mamba", "conv", "recurrent"))


def rope_kind(config: Any) -> str | None:  # noqa: ANN401  (a transformers config)
    """Return the rotary kind named by ``config`` (``default`` if unnamed; kinds joined where layer types differ)."""
    parameters = config_value(config, "rope_parameters")
    if not parameters:
        return None
    if "rope_type" in parameters:
        return str(parameters["rope_type"])
    kinds = {p.get("rope_type", "default") for p in parameters.values() if isinstance(p, dict)}
    return "+".join(sorted(kinds)) or "default"


def grows(rope: str | None) -> bool:
    """Return whether rotary angles of kind ``rope`` change with every token beyond the trained length."""
    return rope is not None and "dynamic" in rope.split("+")


def _window(config: Any, kind: str, layer: int) -> int | None:  # noqa: ANN401  (a transformers config)
    return config_value(config, "sliding_window", layer=layer) if "sliding" in kind else None


def _context(config: Any, rope: str | None) -> int:  # noqa: ANN401  (a transformers config)
    told = int(config_value(config, "max_position_embeddings", 0) or config_value(config, "n_positions") or 0)
    if told <= 0:
        return 2**31
    return int(told * _stretched(config)) if grows(rope) else told


def _stretched(config: Any) -> float:  # noqa: ANN401  (a transformers config)
    """Return how many times the trained length dynamic NTK serves: its least factor, where layer types differ."""
    parameters = config.rope_parameters
    of_types = [parameters] if "rope_type" in parameters else [each for each in parameters.values() if each]
    return min(float(each.get("factor") or 1.0) for each in of_types if each.get("rope_type") == "dynamic")


def _stable_context(config: Any, rope: str | None) -> int:  # noqa: ANN401  (a transformers config)
    if rope is None or not {"longrope", "dynamic"} & set(rope.split("+")):
        return _context(config, rope)
    parameters = config.rope_parameters
    original = parameters.get("original_max_position_embeddings")
    original = original or config_value(config, "original_max_position_embeddings") or config.max_position_embeddings
    return int(original) - ("dynamic" in rope)  # dynamic NTK: at the original length itself the angles may still be old


def _uniform(config: Any) -> tuple[str]:  # noqa: ANN401  (a transformers config)
    return ("sliding_attention",) if config_value(config, "sliding_window") else ("full_attention",)


def _positions(config: Any, model: nn.Module) -> str:  # noqa: ANN401  (a transformers config)
    if config_value(config, "alibi") or getattr(config, "model_type", "") in {"bloom", "mpt"}:
        return "alibi"
    names = {type(module).__name__ for module in model.modules()}
    if any("Rotary" in name for name in names) or config_value(config, "rotary_dim"):
        return "rotary"
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    learned = len(embeddings) > 1
    return "absolute" if learned else "none"
