import numpy as np
import pytest

from nbkv.errors import BadOption
from nbkv.session.certificates.guarantee import Guarantee


def test_several_strategies_share_alpha():
    promise = Guarantee(max_kl=0.1, rate=0.05, alpha=0.1)

    assert [promise.needed(ladders) for ladders in (0, 1, 2, 5)] == [1, 45, 59, 77]
    assert promise.level(5) == pytest.approx(0.02)
    assert promise.allowed(200, 1) > promise.allowed(200, 5) >= 0
    assert promise.allowed(76, 5) == -1


def test_too_few_prompts_are_refused_with_the_number_it_takes():
    promise = Guarantee(max_kl=0.1, rate=0.05, alpha=0.1)
    promise.check(77, 5)
    with pytest.raises(BadOption, match=r"^76 prompts are too few: 77 are needed .* 5 strategies .*") as refused:
        promise.check(76, 5)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "accepted"),
    [
        ({"max_kl": -1}, "a number of nats >= 0"),
        ({"max_kl": float("nan")}, "a number of nats >= 0"),
        ({"max_kl": float("inf")}, "a number of nats >= 0"),
        ({"max_kl": True}, "a number of nats >= 0"),
        ({"alpha": 0}, "alpha, the chance of a wrong certificate, is a number between 0 and 1"),
        ({"rate": 1.0}, "rate, the share of prompts that may be above max_kl, is a number between 0 and 1"),
        ({"rate": "x"}, "between 0 and 1"),
    ],
)
def test_what_is_no_promise_is_refused(changed, accepted):
    with pytest.raises(BadOption, match=accepted):
        Guarantee(**({"max_kl": 0.1, "rate": 0.05, "alpha": 0.1} | changed))


def test_numpys_numbers_do_as_well_and_the_promise_can_be_read():
    promise = Guarantee(np.float32(0.5), np.float64(0.05), 0.1)
    assert str(promise) == (
        "with confidence 90 %, at most 5 % of prompts like these are farther than 0.5 nats from full"
    )
    assert type(promise.max_kl) is float
