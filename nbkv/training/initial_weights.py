"""Where training begins: weights in which a look-up by key and a look at the last declaration are laid out.

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
_BACK: Final = 3
# Dimensions kept apart: the same for all words; says "Pay"; says "Pay stood two words back".
_SAME, _PAY, _DECLARES = range(3)
# What a head compares: the word so many places back here, and so many back there. The mark in "... the
# lamp?" finds 34 in "lamp 34."; the mark in "And Anna?" finds the first line behind "Pay Anna euro."; the
# mark behind "34 euro." finds the line behind "lamp 34."; 34 finds the mark in "lamp 34.".
_AFTER, _BEHIND_HEAD, _NEXT, _SAME_WORD = (1, 1), (1, 3), (2, 2), (0, 1)
# Rotary pairs of the head that finds the last declaration: their frequencies span distances of a few
# to some thousand tokens, so that nearer declarations always score higher.
_RECENT_PAIRS: Final = slice(6, 28)
_SLOWEST_PAIRS: Final = slice(28, 32)


def seed_lookup(model: Any, pay: int) -> None:  # noqa: ANN401  (modules are typed in part)
    """Lay out looks at the words before, matches with them, and a look at the last declaration, in place.

    Head ``h`` of layer 0 notes the word ``h + 1`` places back. Heads of layer 1 look for places that
    have the same word, so many places back, as stands so many places back here; its last head
    keeps in every row the currency declared last (the word two behind ``pay``). Heads of layer 3 match
    once more; one of them takes what the row it finds keeps. Call it without gradients on a Qwen3
    model with random weights.
    """
    import torch  # noqa: PLC0415  (tasks load without torch)

    width = model.config.hidden_size
    # Words outweigh what untrained layers add to them, or nothing could be looked up by word.
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(_QUIET)
        layer.mlp.down_proj.weight.mul_(_QUIET)
    model.model.norm.weight.fill_(2.0)
    apart = _DECLARES + 1
    basis = torch.zeros(width, width - apart)
    basis[apart:] = torch.linalg.qr(torch.randn(width - apart, width - apart)).Q
    own = width - apart - (_BACK + 1) * _RANK
    # places[h]: where the word h places back is noted; places[0] is the word itself.
    spaces: list[torch.Tensor] = [basis[:, :own], *basis[:, own:].split(_RANK, dim=1)]
    places, kept = spaces[:-1], spaces[-1]
    words = model.model.embed_tokens.weight
    words -= words @ kept @ kept.T
    words[:, :apart] = 0.0
    words[:, _SAME] = words[pay, _PAY] = _CONSTANT
    for norm in _norms(model, 0):
        pairs = torch.arange(_FAST_PAIRS)
        norm[pairs] = norm[pairs + model.config.head_dim // 2] = 2.0
    for head in range(_BACK):
        _look_back(model, head, places)
    for layer in (1, 3):
        for norm in _norms(model, layer):
            norm.fill_(1.7)
    for head, (here, there) in enumerate((_AFTER, _BEHIND_HEAD, _NEXT)):
        _match(model, 1, head, (places[here], places[there]), (places[0], places[0]))
    _look_at_last_declaration(model, 3, (places[0], kept))
    second = ((_SAME_WORD, places[0]), (_SAME_WORD, kept), (_BEHIND_HEAD, places[0]), (_NEXT, places[0]))
    for head, ((here, there), said) in enumerate(second):
        _match(model, 3, head, (places[here], places[there]), (said, places[0]))


def _norms(model: Any, layer: int) -> "tuple[torch.Tensor, torch.Tensor]":  # noqa: ANN401  (a transformers model)
    attention = model.model.layers[layer].self_attn
    return attention.q_norm.weight, attention.k_norm.weight


def _look_back(model: Any, head: int, places: "list[torch.Tensor]") -> None:  # noqa: ANN401  (a transformers model)
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
        weight[at + pairs, _SAME], weight[at + pairs + size // 2, _SAME] = first, second
    _carry(model, 0, head, (places[0][:, :_RANK], places[head + 1]), 0.2)
    if head == 1:
        attention.v_proj.weight[at + _RANK] = 0.0
        attention.v_proj.weight[at + _RANK, _PAY] = 1.0
        attention.o_proj.weight[_DECLARES, at + _RANK] = 0.1


def _match(
    model: Any,  # noqa: ANN401  (a transformers model)
    layer: int,
    head: int,
    compared: "tuple[torch.Tensor, torch.Tensor]",
    carried: "tuple[torch.Tensor, torch.Tensor]",
) -> None:
    # In slow rotary pairs, so that distance matters little.
    size = model.config.head_dim
    at, half, slow = head * size, size // 2, size // 2 - _SLOW_PAIRS
    attention = model.model.layers[layer].self_attn
    for weight, source in zip((attention.q_proj.weight, attention.k_proj.weight), compared, strict=True):
        weight[at : at + size] = 0.0
        weight[at + slow : at + half] = source.T[:_SLOW_PAIRS]
        weight[at + half + slow : at + size] = source.T[_SLOW_PAIRS:_RANK]
    _carry(model, layer, head, carried, 0.3)


def _look_at_last_declaration(model: Any, head: int, carried: "tuple[torch.Tensor, torch.Tensor]") -> None:  # noqa: ANN401  (a transformers model)
    # Keys also hold a part that is the same for all rows and that no query asks for: without it, k_norm
    # would make the rows that declare nothing as loud as those that do.
    size = model.config.head_dim
    at = head * size
    attention = model.model.layers[1].self_attn
    queries, keys = attention.q_proj.weight[at : at + size], attention.k_proj.weight[at : at + size]
    queries[:], keys[:] = 0.0, 0.0
    queries[_RECENT_PAIRS, _SAME] = keys[_RECENT_PAIRS, _DECLARES] = 1.0
    keys[_SLOWEST_PAIRS, _SAME] = 3.0
    for norm in _norms(model, 1):
        norm[_RECENT_PAIRS] = 2.5
    _carry(model, 1, head, carried, 0.5)


def _carry(
    model: Any,  # noqa: ANN401  (a transformers model)
    layer: int,
    head: int,
    carried: "tuple[torch.Tensor, torch.Tensor]",
    loudness: float,
) -> None:
    # What the attention finds in the first space goes to the second; the smaller one decides how much.
    size = model.config.head_dim
    at = head * size
    source, target = carried
    rank = min(source.shape[1], target.shape[1])
    attention = model.model.layers[layer].self_attn
    attention.v_proj.weight[at : at + rank] = source.T[:rank]
    attention.o_proj.weight[:, at : at + size] = 0.0
    attention.o_proj.weight[:, at : at + rank] = loudness * target[:, :rank]
