from __future__ import annotations

import re
from itertools import groupby
from random import Random

import pytest

from nbkv.tasks import ledger
from nbkv.tasks.tokenizer import build_tokenizer
from nbkv.tasks.vocabulary import tokens
from nbkv.training.examples import write_example
from nbkv.training.reader import CURRICULUM, encoder, new_model

LINE = re.compile(r"(?P<head>Pay (?P<who>\w+) (?P<declared>\w+))|(?P<item>[a-z]+) (?P<amount>\d+)(?: (?P<own>\w+))?")


def meanings(notes: str) -> tuple[dict[str, str], dict[str, str]]:
    """Give the price of every item and what is known of every person, read off with the last declaration."""
    prices, known, who, held = {}, {}, "", ""
    for line in filter(None, (LINE.fullmatch(part.strip()) for part in notes.split("."))):
        if line["head"]:
            who, held = line["who"], line["declared"]
            known[who] = ""
            continue
        prices[line["item"]] = f"{line['amount']} {line['own'] or held} ."
        if who and not line["own"]:
            known[who] += f"{line['item']} {prices[line['item']]} "
    return prices, {who: said.strip() for who, said in known.items()}


@pytest.mark.parametrize("stage", CURRICULUM[:5], ids=lambda stage: stage.name)
def test_examples_teach_what_the_last_declaration_says(stage):
    words, rng, seen = tokens(), Random(1), set()
    for _ in range(20):
        example = write_example(rng, encoder(), stage.lines, stage.length)
        assert len(example.ids) == len(example.kinds) <= stage.length
        text = ""
        for kind, group in groupby(zip(example.ids[1:], example.kinds[1:], strict=True), key=lambda pair: pair[1]):
            said = " ".join(words[token] for token, _ in group)
            seen.add(kind)
            if kind in {"", "noted"}:
                text += said + " " if not kind else ""
                continue
            asked = text.removesuffix("? ").split()[-1]
            text = text[: text.rindex(".") + 2]
            prices, known = meanings(text)
            assert said == f"{(known if kind == 'report' else prices)[asked]} </s>"
    assert seen >= {"local", "carried", "report"}


@pytest.mark.parametrize("lines", [6, 32])
def test_the_first_weights_see_the_last_declaration(lines):
    import torch

    tokenizer, model = build_tokenizer(), new_model(0).eval()
    model.set_attn_implementation("eager")
    for item in ledger(seed=3, n=6, distance=0, lines=lines)[::2]:
        ids = tokenizer("".join(item.chunks), return_tensors="pt").input_ids
        words = tokenizer.convert_ids_to_tokens(ids[0])
        row = words.index(item.question.removesuffix("?").split()[-1]) + 2
        declared = max(at for at in range(row) if words[at - 2] == "Pay")
        with torch.inference_mode():
            seen = model(ids, output_attentions=True).attentions[1][0, -1, row]
        assert int(seen.argmax()) == declared
