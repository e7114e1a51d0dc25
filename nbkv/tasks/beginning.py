"""Where training begins: weights in which a look-up by key is already laid out.

Random weights need most of an hour on a CPU until two heads agree to say "the word that followed
these very words". Laying out these heads beforehand, in the spirit of mimetic initialisation
(Trockman and Kolter 2023), saves that hour; everything is trained afterwards, these heads too.
"""

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import torch

_QUIET: Final = 0.1
_CONSTANT: Final = 0.3
_FAST_PAIRS: Final = 4
_SLOW_PAIRS: Final = 12
_RANK: Final = 2 * _SLOW_PAIRS
# What a head compares, by layer: the word so many places back here, and so many back there. A word finds
# what followed it; the mark in "... the lamp?" finds 34 in "lamp 34 Anna."; the mark behind a line finds
# the next one. Again in a later layer, which finds the name in "34 Anna" together with what layer 1 has
# found for that name: its currency.
_COMPARED: Final = {1: ((0, 1), (1, 1), (1, 2), (2, 2)), 3: ((0, 1), (1, 1))}


def seed_lookup(model: Any) -> None:  # noqa: ANN401  (modules are typed in part)
    """Lay out looks at the words before (layer 0) and matches with them (layers 1 and 3), in place.

    Head `h` of layer 0 notes the word `h + 1` places back; heads of layers 1 and 3 look for places
    that have the same word, so many places back, as stands so many places back here. Call it
    without gradients on a Qwen3 model with random weights.
    """
    import torch  # noqa: PLC0415  (tasks load without torch)

    width, heads = model.config.hidden_size, model.config.num_attention_heads
    # Words outweigh what untrained layers add to them, or nothing could be looked up by word.
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(_QUIET)
        layer.mlp.down_proj.weight.mul_(_QUIET)
    model.model.norm.weight.fill_(2.0)
    # Dimension 0 is the same for all words: something to form queries from that knows no word.
    model.model.embed_tokens.weight[:, 0] = _CONSTANT
    basis = torch.zeros(width, width - 1)
    basis[1:] = torch.linalg.qr(torch.randn(width - 1, width - 1)).Q
    own = width - 1 - heads * _RANK
    # places[h]: where the word h places back is noted; places[0] is the word itself.
    places = [basis[:, :own], *basis[:, own:].split(_RANK, dim=1)]
    for norm in _norms(model, 0):
        pairs = torch.arange(_FAST_PAIRS)
        norm[pairs] = norm[pairs + model.config.head_dim // 2] = 2.0
    for head in range(heads):
        _look_back(model, head, places)
    for layer, compared in _COMPARED.items():
        for norm in _norms(model, layer):
            norm.fill_(1.7)
        for head, (here, there) in enumerate(compared):
            _match(model, layer, head, (places[0], places[here], places[there]))


def _norms(model: Any, layer: int) -> "tuple[torch.Tensor, torch.Tensor]":  # noqa: ANN401
    attention = model.model.layers[layer].self_attn
    return attention.q_norm.weight, attention.k_norm.weight


def _look_back(model: Any, head: int, places: "list[torch.Tensor]") -> None:  # noqa: ANN401
    # The fastest rotary pairs, turned by head + 1 positions: attention peaks that far back.
    import torch  # noqa: PLC0415

    size = model.config.head_dim
    at = head * size
    pairs = torch.arange(_FAST_PAIRS)
    angle = (head + 1) * model.config.rope_parameters["rope_theta"] ** (-2.0 * pairs / size)
    attention = model.model.layers[0].self_attn
    for weight, first, second in (
        (attention.q_proj.weight, angle.cos(), -angle.sin()),
        (attention.k_proj.weight, torch.ones(_FAST_PAIRS), torch.zeros(_FAST_PAIRS)),
    ):
        weight[at : at + size] = 0.0
        weight[at + pairs, 0], weight[at + pairs + size // 2, 0] = first, second
    attention.v_proj.weight[at : at + _RANK] = places[0][:, :_RANK].T
    attention.o_proj.weight[:, at : at + size] = 0.0
    attention.o_proj.weight[:, at : at + _RANK] = 0.2 * places[head + 1]


def _match(model: Any, layer: int, head: int, spaces: "tuple[torch.Tensor, ...]") -> None:  # noqa: ANN401
    # In slow rotary pairs, so that distance matters little.
    said, here, there = spaces
    size = model.config.head_dim
    at, half, slow = head * size, size // 2, size // 2 - _SLOW_PAIRS
    attention = model.model.layers[layer].self_attn
    for weight, source in ((attention.q_proj.weight, here), (attention.k_proj.weight, there)):
        weight[at : at + size] = 0.0
        weight[at + slow : at + half] = source.T[:_SLOW_PAIRS]
        weight[at + half + slow : at + size] = source.T[_SLOW_PAIRS:_RANK]
    own = said.shape[1]
    attention.v_proj.weight[at : at + own] = said.T
    attention.o_proj.weight[:, at : at + size] = 0.0
    attention.o_proj.weight[:, at : at + own] = 0.3 * said
