"""Whether certificates are right as often as they say: on made-up losses, where the truth is known."""

import numpy as np
import pytest

from nbkv.session.certificates.guarantee import Guarantee
from nbkv.session.certificates.ladder import Ladder, Step, cheapest, wanting

SPLITS, ALPHA, RATE, E = 200, 0.1, 0.05, 1.0
N = 150  # calibration prompts
BUDGETS = (0.3, 0.2, 0.15, 0.1, 0.05)


def ladders_of(losses):
    """Return ladders of ``losses`` ``[ladders, steps, n]``; a step's share is its budget (and a bit)."""
    made = []
    for i, ladder in enumerate(losses):
        steps = []
        for budget, kls in zip(BUDGETS, ladder, strict=False):
            steps.append(Step(f"s{i}(budget={budget})", budget, list(map(float, kls)), [budget + i / 1000], [1.0]))
        made.append(Ladder(steps))
    return made


def certified(losses):
    """Return the ``(ladder, step)`` that are certified on ``losses``, and the one that is chosen."""
    promise = Guarantee(E, RATE, ALPHA)
    allowed = promise.allowed(losses.shape[2], len(losses))
    ladders = ladders_of(losses)
    stand = [ladder.certified(E, allowed) for ladder in ladders]
    at = {step.spec: (i, k) for i, ladder in enumerate(ladders) for k, step in enumerate(ladder.steps)}
    best = cheapest([step for steps in stand for step in steps])
    return [at[step.spec] for steps in stand for step in steps], None if best is None else at[best.spec]


def splits(losses, seed):
    """Yield what is drawn of a table of losses ``[ladders, steps, prompts]``, and what is held out, at random."""
    draw = np.random.default_rng(seed)
    for _ in range(SPLITS):
        order = draw.permutation(losses.shape[2])
        yield losses[..., order[:N]], losses[..., order[N:]]


def heavy(seed, quantiles, prompts=20_000):
    """Return losses with no mean (Pareto, index 1/2), ``quantiles[i][k]`` of which are above E, alike by prompt."""
    draw = np.random.default_rng(seed)
    hard = draw.random(prompts)  # some prompts are hard for every strategy
    own = draw.random((len(quantiles), len(quantiles[0]), prompts))
    chance = np.where(draw.random(own.shape) < 0.5, hard, own)
    above = np.array(quantiles)[:, :, None]
    return E * (above / np.maximum(chance, 1e-12)) ** 2


def test_what_is_certified_holds_on_what_was_held_out():
    rising = [[0.005, 0.01, 0.02, 0.045, 0.06], [0.01, 0.03, 0.055, 0.1, 0.3], [0.06, 0.06, 0.07, 0.2, 0.5]]
    losses, kept, chosen = heavy(1, rising), 0, 0
    for drawn, held_out in splits(losses, seed=2):
        stand, best = certified(drawn)
        kept += all((held_out[at] > E).mean() <= RATE for at in stand)
        chosen += best is not None

    assert losses.max() > 1e6
    assert kept >= (1 - ALPHA) * SPLITS
    assert chosen >= 0.9 * SPLITS  # and it is no empty promise


@pytest.mark.parametrize("together", [True, False], ids=["alike", "apart"])
def test_strategies_just_beyond_the_border_are_seldom_certified(together):
    draw = np.random.default_rng(3)
    chance = draw.random((1, 1, 20_000)) if together else draw.random((5, 5, 20_000))
    losses = np.where(np.broadcast_to(chance, (5, 5, 20_000)) < RATE + 0.002, 1e9, E)
    wrong = sum(bool(certified(drawn)[0]) for drawn, _ in splits(losses, seed=4))

    assert wrong <= ALPHA * SPLITS


def test_the_same_losses_fool_a_choice_by_the_share_that_was_seen():
    draw = np.random.default_rng(3)
    losses = np.where(draw.random((5, 5, 20_000)) < RATE + 0.002, 1e9, E)
    fooled = sum(((drawn > E).mean(axis=2) <= RATE).any() for drawn, _ in splits(losses, seed=4))

    assert fooled > 0.9 * SPLITS


def test_a_step_below_one_that_failed_is_not_certified():
    above = [[0, 0, 9, 0, 0], [9, 0, 0, 0, 0], [0, 1, 2, 2, 3]]
    losses = np.array([[[9.0] * k + [0.0] * (N - k) for k in ladder] for ladder in above])

    assert Guarantee(E, RATE, ALPHA).allowed(N, 3) == 2
    assert certified(losses) == ([(0, 0), (0, 1), (2, 0), (2, 1), (2, 2), (2, 3)], (2, 3))


def test_measuring_goes_on_down_to_the_first_step_that_failed():
    (ladder,) = ladders_of(np.zeros((1, 5, 0)))
    assert ladder.in_play(E, 1) == list(ladder.steps)
    for kl in (2.0, 2.0):
        ladder.steps[2].add(kl, 0.1, 1.0)
    ladder.steps[4].add(2.0, 0.1, 1.0)
    assert ladder.in_play(E, 1) == list(ladder.steps[:3])
    assert ladder.certified(E, 1) == list(ladder.steps[:2])


def test_an_error_that_is_no_number_is_above_every_bound():
    step = Step("s")
    for kl in (float("nan"), float("inf"), E):
        step.add(kl, 0.1, 1.0)
    assert step.above(E) == 2
    assert step.above(1e300) == 2


def test_what_is_wanting_would_have_been_enough():
    promise = Guarantee(E, RATE, ALPHA)
    draw = np.random.default_rng(5)
    ladders = ladders_of(draw.pareto(1.0, (2, 5, N)))
    said = wanting(ladders, promise, N)
    bound = float(said.split("max_kl=")[1].split()[0])
    allowed = promise.allowed(N, 2)

    assert any(ladder.certified(bound, allowed) for ladder in ladders)
    assert not any(ladder.certified(0.9 * bound, allowed) for ladder in ladders)
    assert "\n" not in said


def test_more_prompts_are_proposed_only_where_they_would_do():
    promise = Guarantee(E, RATE, ALPHA)
    four, nine = ([9.0] * k + [0.0] * (N - k) for k in (4, 9))
    said = wanting(ladders_of(np.array([[four]])), promise, N)
    more = int(said.split("about ")[1].split()[0])

    assert promise.allowed(N, 1) == 3
    assert promise.allowed(more, 1) >= 4 * more // N
    assert "about" not in wanting(ladders_of(np.array([[nine]])), promise, N)


def test_the_cheapest_is_the_first_of_those_that_compute_least():
    steps = [Step("a", shares=[0.2]), Step("b", shares=[0.1, 0.1]), Step("c", shares=[0.1])]
    assert cheapest(steps).spec == "b"
    assert cheapest([]) is None
