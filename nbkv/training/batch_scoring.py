"""Whether a plain transformers model answers items, many at a time and without a session."""

from typing import TYPE_CHECKING

from nbkv.tasks.items import Dialogue, Item

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_Scripts = list[list[tuple[list[int], list[int]]]]


def right(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    items: list[Item] | list[Dialogue],
    batch: int = 8,
    *,
    alone: bool = False,
) -> list[list[bool]]:
    """Tell per item, and per turn of a dialogue, whether greedy decoding gives exactly the answer.

    The right answer and its end token are fed in, all rows of ``batch`` items at once; greedy
    decoding gives it exactly when every next token it needs is the most likely one. In a dialogue
    the history holds the right answers. ``alone``: every chunk of an Item sees itself and the start
    token only, as if it had been encoded by itself; the question and the answer see everything.
    """
    scripts = [_script(tokenizer, item) for item in items]
    sizes = [_chunk_sizes(tokenizer, item) if alone and isinstance(item, Item) else [] for item in items]
    order = sorted(range(len(scripts)), key=lambda at: _size(scripts[at]))
    found: dict[int, list[bool]] = {}
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        read = _read(model, [scripts[at] for at in rows], [sizes[at] for at in rows])
        found.update(zip(rows, read, strict=True))
    return [found[at] for at in range(len(scripts))]


def _script(tokenizer: "PreTrainedTokenizerBase", item: Item | Dialogue) -> list[tuple[list[int], list[int]]]:
    # Pairs (what the model is given, what it has to say) of token ids; the first begins with BOS.
    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    end = [int(tokenizer.eos_token_id)]
    bos = [int(tokenizer.bos_token_id)]
    if isinstance(item, Item):
        given = [token for part in [*item.chunks, item.question] for token in encode(part)]
        return [(bos + given, encode(" ".join(item.answers)) + end)]
    turns = [encode(turn) for turn in item.turns]
    turns[0] = bos + turns[0]
    return [(turn, encode(answer) + end) for turn, answer in zip(turns, item.answers, strict=True)]


def _size(script: list[tuple[list[int], list[int]]]) -> int:
    return sum(len(given) + len(said) for given, said in script)


def _chunk_sizes(tokenizer: "PreTrainedTokenizerBase", item: Item) -> list[int]:
    return [len(tokenizer.encode(chunk, add_special_tokens=False)) for chunk in item.chunks]


def _mask(sizes: list[list[int]], length: int) -> "torch.Tensor | None":
    # [B, 1, length, length]: causal, and within a chunk nothing before it but the start token.
    import torch  # noqa: PLC0415

    if not any(sizes):
        return None
    mask = torch.ones(len(sizes), 1, length, length, dtype=torch.bool).tril()
    for row, chunks in enumerate(sizes):
        start = 1
        for size in chunks:
            mask[row, 0, start : start + size, 1:start] = False
            start += size
    return mask


def _read(model: "PreTrainedModel", scripts: _Scripts, sizes: list[list[int]]) -> list[list[bool]]:
    import torch  # noqa: PLC0415  (tasks load without torch)

    ids = torch.zeros(len(scripts), max(_size(script) for script in scripts), dtype=torch.long)
    for row, script in enumerate(scripts):
        flat = [token for given, said in script for token in (*given, *said)]
        ids[row, : len(flat)] = torch.tensor(flat)
    with torch.inference_mode():
        # Causal: padding on the right changes nothing before it.
        mask = _mask(sizes, ids.shape[1])
        mask = None if mask is None else mask.to(model.device)
        logits = model(input_ids=ids.to(model.device), attention_mask=mask, use_cache=False).logits
    guesses = logits.argmax(-1).cpu()
    results = []
    for row, script in enumerate(scripts):
        turns, at = [], 0
        for given, said in script:
            at += len(given)
            turns.append(guesses[row, at - 1 : at + len(said) - 1].tolist() == said)
            at += len(said)
        results.append(turns)
    return results
