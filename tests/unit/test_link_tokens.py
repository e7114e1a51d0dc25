"""Training of link tokens: what it computes is what ``kvlink`` computes, and a step makes answers likelier."""

from __future__ import annotations

from random import Random

import pytest
import torch

import nbkv
from nbkv.errors import UnsupportedModel
from nbkv.inference.forced import follow
from nbkv.inference.run import RequestRun
from nbkv.models.link_tokens import read_links
from nbkv.models.sampling import Sampling
from nbkv.prompts import prompt as prompts
from nbkv.strategy import parse
from nbkv.training.link_tokens import Exercise, Linker, exercise


@pytest.fixture
def tiny():
    with nbkv.load("tiny") as session:
        yield session


def test_training_computes_what_inference_computes(tiny, tmp_path):
    linker = Linker(tiny, links=3, slots=4, batch=2, questions=2, seed=1)
    with torch.no_grad():
        linker.own.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    linker.save(tmp_path / "links.safetensors")
    draw = Random(4)
    batch = [exercise(draw, linker.encode, linker.end, chunks=4, questions=2) for _ in range(2)]
    logits, wanted = linker.answers(batch)
    logits = logits.detach()
    strategy, at, ctx = parse(f"kvlink({str(tmp_path / 'links.safetensors')!r})"), 0, tiny._ctx.for_request()

    for one in batch:
        text = [tiny.tokenizer.decode(ids) for ids in one.chunks]
        chunks = [tiny.chunk(words, name=f"c{n}") for n, words in enumerate(text)]
        assert [list(chunk.token_ids) for chunk in chunks] == one.chunks
        for question, answer in one.asked:
            built = prompts.build(
                ctx.codec, [*chunks, tiny.tokenizer.decode(question)], ctx.adapter.fingerprint, ctx.eos
            )
            said = follow(RequestRun(ctx, strategy, built, Sampling()), answer)
            first, picked = said[0], said.argmax(dim=-1).tolist()
            due = logits[at : at + len(answer)]
            assert float((first - due[0]).abs().max()) <= 1e-4 * max(1.0, float(first.abs().max()))
            assert picked == due.argmax(-1).tolist()
            assert wanted[at : at + len(answer)].tolist() == answer
            at += len(answer)
    assert at == len(wanted)


def test_a_step_makes_answers_likelier_and_touches_nothing_else(session_of):
    session = session_of("qwen3")
    linker = Linker(session, links=2, slots=3, minutes=1, peak=3.0)  # the rate rises over its first hundred steps
    before = session.adapter.fingerprint
    draw = Random(0)
    ids = [[draw.randrange(3, 190) for _ in range(7)] for _ in range(5)]
    batch = [Exercise(ids[:3], [(ids[3], ids[4])])]
    losses = [linker.step(batch)[0] for _ in range(12)]

    assert losses[-1] < 0.8 * losses[0]
    assert session.adapter.fingerprint == before
    assert all(parameter.grad is None for parameter in session.adapter.model.parameters())
    assert linker.vectors.shape == (3, 2, 64)


def test_a_run_ends_after_its_steps_and_gives_a_file(tiny, tmp_path):
    linker = Linker(tiny, links=2, slots=2, batch=1, questions=1, steps=5)
    records = list(linker.run(every=2))
    linker.save(tmp_path / "links.safetensors")

    assert [record["step"] for record in records] == [2, 4, 5]
    assert linker.steps == 5
    links = read_links(tmp_path / "links.safetensors")
    assert links.vectors.shape == (2, 2, 128)
    assert links.trained_on == tiny.adapter.fingerprint


def test_same_seed_same_exercises(tiny):
    first, second = (Linker(tiny, slots=5, batch=2, seed=3) for _ in range(2))

    assert first.draw() == second.draw()
    assert torch.equal(first.vectors, second.vectors)
    assert first.draw() != Linker(tiny, slots=5, batch=2, seed=4).draw()


def test_sliding_windows_are_refused(session_of):
    with pytest.raises(UnsupportedModel, match="link tokens are trained on full attention only"):
        Linker(session_of("mistral"))
