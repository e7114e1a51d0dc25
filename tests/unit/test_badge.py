import pytest

from nbkv.show.badge import badge, badge_html

MEASURED = {"kl": 0.06, "kl_max": 0.4, "top1": 0.9, "n": 32, "diverges_at": 11, "floor": 1e-5}


@pytest.mark.parametrize(
    ("exact", "fidelity", "words"),
    [
        (True, None, "exact"),
        (False, None, "approximate, not measured"),
        (False, {"kl": None, "diverges_at": None}, "approximate, not measured"),
        (False, MEASURED, "approximate, KL 0.06, differs at token 12"),
        (False, MEASURED | {"diverges_at": 0}, "approximate, KL 0.06, differs at token 1"),
        (False, MEASURED | {"diverges_at": None}, "approximate, KL 0.06, same 32 tokens as full"),
        (False, MEASURED | {"kl": 0.0, "diverges_at": None, "n": 1}, "approximate, KL 0, same token as full"),
        (False, {"kl": 0.06, "diverges_at": None}, "approximate, KL 0.06, same tokens as full"),
        (True, MEASURED | {"kl": 3e-7, "diverges_at": None}, "exact"),
        (True, MEASURED | {"kl": 1e-5, "diverges_at": None}, "exact"),
        (True, MEASURED | {"kl": 0.02, "diverges_at": None}, "exact by design, KL 0.02, same 32 tokens as full"),
        (True, MEASURED | {"kl": 1e-5}, "exact by design, KL 1e-05 (noise), differs at token 12"),
    ],
)
def test_a_badge_says_what_is_known_and_no_more(exact, fidelity, words):
    assert badge(exact, fidelity) == words


def test_frames_of_exact_and_approximate_differ_without_colour():
    assert "solid" in badge_html("exact")
    assert ">= exact<" in badge_html("exact")
    assert "dashed" in badge_html("approximate, not measured")
    assert "≈ approximate" in badge_html("approximate, not measured")
