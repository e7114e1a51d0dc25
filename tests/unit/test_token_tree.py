"""Sequences that branch, in one pass, against each sequence in a pass of its own; and what is held of them."""

from __future__ import annotations

import pytest
import torch

from nbkv.errors import UnsupportedModel
from nbkv.models.caches.growing import GrowingCache
from nbkv.models.probing.probe import adapt
from nbkv.models.trees.last_hidden import last_hidden
from nbkv.models.trees.token_tree import TokenTree
from nbkv.models.trees.tree_pass import TreePass, run
from nbkv.models.work import Work

SHARED = [7 * at % 190 for at in range(1, 24)]


class Said:
    """A tree, and beside it what each of its sequences is."""

    def __init__(self, adapter, cuts=((0, 5), (5, 23))):
        cache = GrowingCache()
        adapter.prefill(SHARED, cache)
        self.adapter, self.tree = (
            adapter,
            TokenTree([cache.read(*cut) for cut in cuts], adapter.n_layers, adapter.device),
        )
        self.ids = [[]]
        self.tree.begin()

    def fork(self, number):
        assert self.tree.fork(number) == len(self.ids)
        self.ids.append(list(self.ids[number]))

    def keep(self, numbers):
        self.tree.keep(numbers)
        self.ids = [self.ids[number] for number in numbers]

    def step(self, tokens, work=None):
        logits = run(self.adapter, TreePass(self.tree, list(tokens), list(tokens.values())), work)
        for (number, token), got in zip(tokens.items(), logits, strict=True):
            self.ids[number].append(token)
            expected = self.adapter.plain(self.adapter.tensor([*SHARED, *self.ids[number]]))[-1]
            assert float((got - expected).abs().max()) < 1e-4 * max(1.0, float(expected.abs().max()))
        return logits


@pytest.fixture(scope="module", params=["llama", "mistral", "gemma3", "olmoe", "qwen2_vl", "cohere2"])
def adapter(request, model_of):
    """Windows, two kinds of layers, experts, three axes, layers without rotation."""
    return adapt(model_of(request.param), request.param)


@pytest.fixture(scope="module")
def llama(model_of):
    return adapt(model_of("llama"), "llama")


def test_branches_give_the_logits_they_have_alone(adapter):
    said = Said(adapter)
    said.step({0: 5})
    said.step({0: 6})
    said.fork(0)
    said.fork(0)
    said.step({0: 9, 2: 11})  # ragged: not all of them go on
    said.step({1: 3, 2: 4, 0: 7})
    said.fork(2)
    for at in range(24):  # past the memory that there was, and past windows
        said.step({3: 20 + at, 0: 21 + at})
    said.keep([3, 1])
    said.step({0: 1, 1: 2})
    said.step({1: 7})
    assert said.tree.lengths == [len(ids) for ids in said.ids]


@pytest.mark.parametrize("cuts", [(), ((0, 23),), ((0, 1), (1, 2), (2, 23))])
def test_the_shared_part_may_lie_anywhere(llama, cuts):
    said = Said(llama, cuts)
    if not cuts:
        for token in SHARED:
            run(llama, TreePass(said.tree, [0], [token]))
    said.fork(0)
    said.step({0: 5, 1: 6})
    said.step({1: 8})


def test_a_token_is_held_once_and_until_nobody_sees_it(llama):
    said = Said(llama)
    for token in range(10):
        said.step({0: token})
    said.fork(0)
    said.fork(0)
    said.step({0: 1, 1: 1, 2: 1})  # the same token of three branches is three tokens
    tree = said.tree
    assert (tree.held, tree.alone) == (13, 3 * (23 + 11))
    assert 13 * llama.token_bytes <= tree.nbytes <= 32 * llama.token_bytes
    assert tree.shared_bytes == 23 * llama.token_bytes
    said.keep([1])
    assert (tree.held, tree.alone) == (11, 34)
    assert tree.nbytes == 16 * llama.token_bytes
    said.step({0: 4})
    said.keep([])
    assert (tree.held, tree.nbytes) == (0, 0)


def test_a_pass_that_fails_leaves_the_tree_as_it_was(llama):
    said = Said(llama)
    said.step({0: 5})
    said.fork(0)

    def fail(index, rows):
        if index == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(llama, TreePass(said.tree, [0, 1], [3, 4]), Work(on_layer=fail))
    assert said.tree.lengths == [1, 1]
    assert said.tree.held == 1
    said.step({0: 3, 1: 4})


def test_half_precision_is_as_good_as_a_split_prefill(make_model):
    adapter = adapt(make_model("llama").to(torch.bfloat16), "llama")
    cache, split = GrowingCache(), GrowingCache()
    adapter.prefill(SHARED, cache)
    adapter.prefill(SHARED, split)
    tree = TokenTree([cache.read(0, 23)], adapter.n_layers, adapter.device)
    tree.begin()
    tree.fork(0)
    got = run(adapter, TreePass(tree, [0, 1], [5, 5]))
    exact = adapter.plain(adapter.tensor([*SHARED, 5]))[-1]
    other = adapter.forward(adapter.tensor([5]), split, start=23)[-1]
    limit = 2 * float((other - exact).abs().max()) + 4 * float(torch.finfo(torch.bfloat16).eps) * float(
        exact.abs().max()
    )
    assert float((got - exact).abs().max()) <= limit


def test_the_last_hidden_states_are_those_the_logits_are_made_of(llama):
    said, head = Said(llama), llama.model.get_output_embeddings()
    said.fork(0)
    with last_hidden(llama) as seen, torch.inference_mode():
        logits = run(llama, TreePass(said.tree, [0, 1], [5, 6]))
        again = torch.nn.functional.linear(seen.rows, head.weight, head.bias)
    assert seen.rows.shape[0] == 2
    assert torch.allclose(again, logits, atol=1e-5)
    assert not head._forward_pre_hooks


def test_a_model_without_output_embeddings_is_refused(llama, monkeypatch):
    monkeypatch.setattr(llama.model, "get_output_embeddings", lambda: None)
    with pytest.raises(UnsupportedModel, match="output embeddings"), last_hidden(llama):
        pass
