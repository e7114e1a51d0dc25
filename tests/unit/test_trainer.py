"""How long a training run lasts, and that it goes on where it was."""

from __future__ import annotations

from random import Random

import pytest
import torch

from nbkv.training.trainer import Predictions, Stage, TrainingBudget, TrainingRun, rate


class Counted(TrainingRun):
    """Learns to say token 1, on a model of one embedding."""

    curriculum = (Stage("the only", 1, 4, 2, 2.0),)
    name, review = "counted", 1

    def draw(self, at):
        assert at == 0
        return torch.ones(4, dtype=torch.long)

    def predictions(self, batch):
        logits = self.model.model.embed_tokens(batch) + self.model.bias
        return Predictions(logits, batch, torch.ones(4), batch > 0)


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Module()
        self.model.embed_tokens = torch.nn.Embedding(3, 3)
        self.bias = torch.nn.Parameter(torch.zeros(3))


def counted(folder, steps):
    return Counted(folder, Small(), TrainingBudget(60, steps), 0, "cpu", 0.1)


def test_minutes_count_unless_there_are_steps():
    assert TrainingBudget(2).spent(30.0, 999) == 0.25
    assert TrainingBudget(2).spent(120.0, 0) == 1
    assert TrainingBudget(2, 10).spent(999.0, 5) == 0.5
    assert TrainingBudget(0).spent(0.0, 0) == TrainingBudget(2, 0).spent(0.0, 0) == 1


def test_the_rate_rises_and_falls_with_the_share_that_is_spent():
    rates = [rate(share, 200, 2.0) for share in (0.0, 0.5, 0.8, 1.0)]
    assert rates == pytest.approx([2.0, 2.0, 1.0, 0.0])
    assert rate(0.0, 9, 2.0) == pytest.approx(0.2)


def test_a_run_ends_after_its_steps_and_goes_on_where_it_was(tmp_path):
    first = counted(tmp_path, 4)
    assert [line["step"] for line in first.run(every=2)] == [2, 4]
    longer = counted(tmp_path, 5)
    assert longer.progress == first.progress
    assert torch.equal(longer.model.bias, first.model.bias)
    assert longer.rng.random() == Random("counted 0 4").random()
    assert list(longer.run(every=50)) == []
    assert counted(tmp_path, 5).progress.step == 5
    assert list(counted(tmp_path, 5).run()) == []
