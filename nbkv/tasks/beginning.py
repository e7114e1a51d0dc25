"""Where training begins: weights in which a look-up by key is already laid out.

Random weights need most of an hour on a CPU until two heads agree to say "the word that followed
this very word". Laying out these two heads beforehand, in the spirit of mimetic initialisation
(Trockman and Kolter 2023), saves that hour; everything is trained afterwards, these heads too.
"""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

_QUIET: Final = 0.1
_CONSTANT: Final = 0.3
_FAST_PAIRS: Final = 4
_SLOW_PAIRS: Final = 20


def seed_lookup(model: Any) -> None:  # noqa: ANN401  (modules are typed in part)
    """Lay out a look at the token before (layer 0) and a match with it (layer 1), in place.

    Call it without gradients on a Qwen3 model with random weights.
    """
    import torch  # noqa: PLC0415  (tasks load without torch)

    width, head = model.config.hidden_size, model.config.head_dim
    # Words outweigh what untrained layers add to them, or nothing could be looked up by word.
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(_QUIET)
        layer.mlp.down_proj.weight.mul_(_QUIET)
    model.model.norm.weight.fill_(2.0)
    # Dimension 0 is the same for all words: something to form queries from that knows no word.
    model.model.embed_tokens.weight[:, 0] = _CONSTANT
    basis = torch.zeros(width, width - 1)
    basis[1:] = torch.linalg.qr(torch.randn(width - 1, width - 1)).Q
    key = basis[:, : 2 * _SLOW_PAIRS]
    before = basis[:, 2 * _SLOW_PAIRS : 4 * _SLOW_PAIRS]
    rest = basis[:, 4 * _SLOW_PAIRS : 4 * _SLOW_PAIRS + head - 2 * _SLOW_PAIRS]
    _look_back(model, key, before)
    _match(model, key, before, torch.cat([key, rest], dim=1))


def _look_back(model: Any, key: "torch.Tensor", before: "torch.Tensor") -> None:  # noqa: ANN401
    # The fastest rotary pairs, turned by one position: attention peaks at the token before.
    import torch  # noqa: PLC0415

    head = model.config.head_dim
    pairs = torch.arange(_FAST_PAIRS)
    angle = model.config.rope_parameters["rope_theta"] ** (-2.0 * pairs / head)
    attention = model.model.layers[0].self_attn
    for weight, first, second in (
        (attention.q_proj.weight, angle.cos(), -angle.sin()),
        (attention.k_proj.weight, torch.ones(_FAST_PAIRS), torch.zeros(_FAST_PAIRS)),
    ):
        weight[:head] = 0.0
        weight[pairs, 0], weight[pairs + head // 2, 0] = first, second
    for norm in (attention.q_norm.weight, attention.k_norm.weight):
        norm[pairs] = norm[pairs + head // 2] = 2.0
    attention.v_proj.weight[: key.shape[1]] = key.T
    attention.o_proj.weight[:, :head] = 0.0
    attention.o_proj.weight[:, : key.shape[1]] = 0.25 * before


def _match(model: Any, key: "torch.Tensor", before: "torch.Tensor", said: "torch.Tensor") -> None:  # noqa: ANN401
    # Query: this word; key: the word before; in slow rotary pairs, so that distance matters little.
    head = model.config.head_dim
    half, slow = head // 2, head // 2 - _SLOW_PAIRS
    attention = model.model.layers[1].self_attn
    for weight, source in ((attention.q_proj.weight, key), (attention.k_proj.weight, before)):
        weight[:head] = 0.0
        weight[slow:half], weight[half + slow : head] = source.T[:_SLOW_PAIRS], source.T[_SLOW_PAIRS:]
    attention.q_norm.weight.fill_(1.7)
    attention.k_norm.weight.fill_(1.7)
    attention.v_proj.weight[:head] = said.T
    attention.o_proj.weight[:, :head] = 0.5 * said
