"""Cache-Craft's alpha is the one of least work among those that stay near full."""

from __future__ import annotations

import pytest

from nbkv.errors import BadOption
from nbkv.studies.alpha import fit_alpha


@pytest.fixture
def traffic(session_of, words):
    session = session_of()
    chunks = [session.chunk(words(24, seed=seed), name=str(seed)) for seed in range(3)]
    front, question = words(4, seed=8), words(4, seed=9)
    return session, [[front, *chunks[::-1], question]], [[front, *chunks, question]]


def test_more_alpha_is_more_work_and_the_least_that_fits_is_taken(traffic):
    session, history, prompts = traffic
    fit = fit_alpha(session, history, prompts, max_kl=1e9, alphas=(0.25, 1.0), max_new_tokens=2)
    low, high = fit.trials

    assert (low.alpha, high.alpha, fit.alpha) == (0.25, 1.0, 0.25)
    assert low.share < high.share
    assert len(session._ctx.scratch["cachecraft"]) == 3  # of the history; comparisons leave nothing


def test_deviation_decides(traffic):
    session, history, prompts = traffic
    low, high = fit_alpha(session, history, prompts, max_kl=1e9, alphas=(0.1, 3.0), max_new_tokens=2).trials
    assert high.kl < low.kl  # at 3 every chunk is recomputed in full
    between = (low.kl + high.kl) / 2
    assert fit_alpha(session, (), prompts, max_kl=between, alphas=(0.1, 3.0), max_new_tokens=2).alpha == 3


def test_no_alpha_is_good_enough(traffic):
    session, history, prompts = traffic
    with pytest.raises(BadOption, match=r"no alpha of .* comes nearest"):
        fit_alpha(session, history, prompts, max_kl=-1.0, alphas=(0.1,), max_new_tokens=1)
    with pytest.raises(BadOption, match="at least one prompt"):
        fit_alpha(session, history, [], max_kl=0.1)
