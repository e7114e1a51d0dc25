"""Training rows of the block-diffusion reader, held against what decoding sees."""

from __future__ import annotations

from random import Random

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from nbkv.tasks.vocabulary import tokens
from nbkv.training.diffusion_reader import CURRICULUM, drill, fill
from nbkv.training.masked_batches import END, IGNORED, MASK, BatchRow, NotesDrill, collate
from nbkv.training.reader import encoder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=len(tokens()), num_key_value_heads=2, head_dim=16, initializer_range=0.5, **shape)
    return Qwen3ForCausalLM(config).eval()


def sheets(block, count=2, lines=9, length=220):
    rng = Random(block)
    for _ in range(count):
        made = drill(rng, encoder(), lines)
        sheet = BatchRow(made.notes, block)
        kept = [(q, a) for q, a in made.asked if sheet.ask(rng, q, a, 2, length)]
        assert kept
        yield made, kept, sheet


def outputs(model, batch):
    with torch.inference_mode():
        return model(
            input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, use_cache=False
        ).logits


@pytest.mark.parametrize("block", [4, 8])
def test_each_noisy_block_is_computed_as_decoding_would(model, block):
    """A plain loop runs, for each noisy block, only what is before it and the block itself."""
    made = list(sheets(block))
    batch = collate([sheet for *_, sheet in made], 224)
    logits = outputs(model, batch)
    checked = 0
    for row, (drilled, kept, sheet) in enumerate(made):
        at = {key: index for index, key in enumerate(zip(sheet.branches, sheet.copies, sheet.positions, strict=True))}
        for (branch, copy, position), start in at.items():
            if not copy or position % block:
                continue
            question, answer = kept[branch - 1]
            before = [*drilled.notes, *question, *answer][:position]
            text = torch.tensor([before + sheet.ids[start : start + block]])
            blocks = torch.arange(position + block) // block
            with torch.inference_mode():
                alone = model(text, attention_mask=(blocks[:, None] >= blocks)[None, None], use_cache=False).logits
            assert torch.allclose(logits[row, start : start + block], alone[0, position:], atol=1e-5)
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("block", [4, 8])
def test_masked_tokens_are_told_back_at_their_own_place(block):
    for made, kept, sheet in sheets(block):
        for index, target in enumerate(sheet.targets):
            assert (target == IGNORED) == (sheet.ids[index] != MASK)
            if target != IGNORED:
                question, answer = kept[sheet.branches[index] - 1]
                whole = [*made.notes, *question, *answer]
                position = sheet.positions[index]
                assert sheet.copies[index]
                assert position >= len(made.notes) + len(question)
                assert target == (whole[position] if position < len(whole) else END)
        masked = {
            (branch, copy, position // block)
            for branch, copy, position, target in zip(
                sheet.branches, sheet.copies, sheet.positions, sheet.targets, strict=True
            )
            if target != IGNORED
        }
        noisy = {(b, c, p // block) for b, c, p in zip(sheet.branches, sheet.copies, sheet.positions, strict=True) if c}
        assert masked == noisy


def test_a_row_is_never_longer_than_it_may_be():
    sheet = BatchRow([1, *range(20, 30)], 4)
    assert not sheet.ask(Random(0), [40, 41], [42, 43, END], 1, 14)
    assert len(sheet.ids) == 8
    assert sheet.ask(Random(0), [40, 41], [42, 43, END], 1, 24)
    assert len(sheet.ids) == 8 + 4 + 4
    assert sheet.left_over == [27, 28, 29]


def test_the_loss_is_that_of_masked_tokens_only(model):
    made = NotesDrill([1, *range(20, 31)], [([40, 41, 42], [50, 51, END])])
    sheet = BatchRow(made.notes, 4)
    sheet.ask(Random(1), *made.asked[0], copies=1, length=64)
    batch = collate([sheet], 40)
    hidden = torch.randn(1, 40, 32, requires_grad=True)
    said = fill(model.lm_head, hidden, batch)
    said.logits.sum().backward()
    touched = hidden.grad[0].abs().sum(-1) > 0
    assert touched.tolist() == [token == MASK for token in batch.ids[0].tolist()]
    assert said.wanted.tolist() == [target for target in sheet.targets if target != IGNORED]


@pytest.mark.parametrize("stage", CURRICULUM[:4], ids=lambda stage: stage.name)
def test_drills_ask_what_the_notes_answer(stage):
    words, rng = tokens(), Random(2)
    for _ in range(10):
        made = drill(rng, encoder(), stage.lines)
        assert made.notes[0] == 1
        text = " ".join(words[token] for token in made.notes)
        for question, answer in made.asked:
            assert answer[-1] == END
            said = " ".join(words[token] for token in answer[:2])
            name = words[question[-2]]
            assert f"{name} {said}" in text or f"Pay {name}" in text or f"{name} {words[answer[0]]}" in text
