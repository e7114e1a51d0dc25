"""What a model has, as far as reuse is concerned; read from its config and from the cache a probe filled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from nbkv.kv import KV


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """The record a strategy's needs are checked against.

    ``positions`` is ``rotary``, ``absolute``, ``alibi`` or ``none``; ``rope`` the rotary kind (``default``, ``yarn``);
    ``windows`` the sliding window of each layer in tokens (None: sees everything); ``kv_heads``, ``key_dim`` and
    ``value_dim`` are per layer as cached; ``groups`` query heads per K/V head; ``context`` the longest prompt plus
    answer in tokens; ``stable_context`` up to how many tokens K/V do not depend on how long the whole sequence is
    (shorter than ``context`` for longrope and dynamic NTK); ``rope_switch`` the position from which longrope turns all
    tokens by other angles. The last three are what the self-test found: the layer walk, continuing from our cache,
    decoding with the family's own cache.
    """

    n_layers: int
    layer_types: tuple[str, ...]
    windows: tuple[int | None, ...]
    positions: str
    rope: str | None
    partial_rotary: float
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
    walk: bool
    prefix: bool
    own_cache: bool

    @property
    def why_no_prefix(self) -> str:
        """Return the reason a warm cache cannot be trusted for this model."""
        if self.recurrent:
            return "its recurrent layers keep states that cannot be cut at a token"
        return "continuing from cached K/V does not give the logits of a full pass"


def read(
    config: Any,  # noqa: ANN401  (a transformers config)
    model: nn.Module,
    kv: KV | None,
    *,
    walk: bool,
    prefix: bool,
    own_cache: bool = True,
) -> Capabilities:
    """Return the capabilities of ``model`` with text config ``config``; ``kv`` is what the probe cached, if any."""
    n_layers = int(config.num_hidden_layers)
    types = tuple(getattr(config, "layer_types", None) or _uniform(config) * n_layers)
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    kv_heads = tuple(int(k.shape[0]) for k in kv.keys) if kv else ()
    rope = rope_kind(config)
    return Capabilities(
        n_layers=n_layers,
        layer_types=types,
        windows=tuple(getattr(config, "sliding_window", None) if "sliding" in kind else None for kind in types),
        positions=_positions(config, model),
        rope=rope,
        partial_rotary=float(getattr(config, "partial_rotary_factor", None) or 1.0),
        kv_heads=kv_heads,
        key_dim=tuple(int(k.shape[-1]) for k in kv.keys) if kv else (),
        value_dim=tuple(int(v.shape[-1]) for v in kv.values) if kv else (),
        groups=heads // most if (most := max(kv_heads, default=0)) else 1,
        softcap=getattr(config, "attn_logit_softcapping", None),
        latent=getattr(config, "kv_lora_rank", None) is not None,
        recurrent=any("linear" in kind or "mamba" in kind or "conv" in kind or "recurrent" in kind for kind in types)
        or kv is None,
        shared_kv=bool(getattr(config, "num_kv_shared_layers", 0)),
        context=_context(config),
        stable_context=_stable_context(config, rope),
        rope_switch=_stable_context(config, rope) if rope and "longrope" in rope else None,
        walk=walk,
        prefix=prefix,
        own_cache=own_cache,
    )


def rope_kind(config: Any) -> str | None:  # noqa: ANN401
    """Return the rotary kind named by ``config`` (``default`` if unnamed; kinds joined where layer types differ)."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters:
        return None
    if "rope_type" in parameters:
        return str(parameters["rope_type"])
    kinds = {p.get("rope_type", "default") for p in parameters.values() if isinstance(p, dict)}
    return "+".join(sorted(kinds)) or "default"


def _context(config: Any) -> int:  # noqa: ANN401
    return int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 2**31)


def _stable_context(config: Any, rope: str | None) -> int:  # noqa: ANN401
    if rope is None or not {"longrope", "dynamic"} & set(rope.split("+")):
        return _context(config)
    parameters = config.rope_parameters
    original = parameters.get("original_max_position_embeddings")
    original = original or getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings
    return int(original) - ("dynamic" in rope)  # dynamic NTK: at the original length itself the angles may still be old


def _uniform(config: Any) -> tuple[str]:  # noqa: ANN401
    return ("sliding_attention",) if getattr(config, "sliding_window", None) else ("full_attention",)


def _positions(config: Any, model: nn.Module) -> str:  # noqa: ANN401
    if getattr(config, "alibi", False) or getattr(config, "model_type", "") in {"bloom", "mpt"}:
        return "alibi"
    names = {type(module).__name__ for module in model.modules()}
    if any("Rotary" in name for name in names):
        return "rotary"
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    learned = len(embeddings) > 1
    return "absolute" if learned else "none"
