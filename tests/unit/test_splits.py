import json

import numpy as np
import pytest

from nbkv.session.certificates import Certificate
from nbkv.session.certificates.guarantee import Guarantee
from nbkv.studies import splits


def rows(**kls):
    budgets = {"safe": 0.3, "cheap": 0.1}
    return [
        {"strategy": f"passage(budget={budgets[name]})", "kls": values, "compute_share": budgets[name]}
        for name, values in kls.items()
    ]


def test_a_table_that_keeps_the_bound_is_never_beyond_it():
    found = splits.splits(rows(safe=[0.0] * 60, cheap=[0.0] * 59 + [2.0]), Guarantee(1.0, 0.1, 0.1), 30, 50)

    assert (found.draws, found.certified, found.beyond, found.held_out) == (50, 50, 0, 0)
    assert sum(found.chosen.values()) == 50
    assert set(found.chosen) == {"passage(budget=0.1)", "passage(budget=0.3)"}  # with the one prompt drawn, and without


def test_a_table_beyond_the_bound_is_seldom_certified_and_told():
    kls = [2.0] * 13 + [0.0] * 87  # 13 of 100 where 10 may be
    found = splits.splits(rows(safe=kls), Guarantee(1.0, 0.1, 0.1), 30, 400)

    assert 0 < found.certified == found.beyond == found.held_out <= 0.1 * 400


@pytest.mark.parametrize("bound", splits.BOUNDS)
def test_certificates_hold_on_the_real_table(bound):
    certificate = Certificate.from_dict(json.loads(splits.TABLE.read_text(encoding="utf-8")))
    promise = Guarantee(bound, splits.RATE, splits.ALPHA)
    found = splits.splits(certificate.rows, promise, splits.N, splits.DRAWS)

    assert promise.needed(2) <= splits.N < certificate.n
    assert all(np.isfinite(row["kls"]).all() and len(row["kls"]) == certificate.n for row in certificate.rows)
    assert found.beyond <= splits.ALPHA * splits.DRAWS
    assert found.held_out <= splits.ALPHA * splits.DRAWS


def test_the_page_shows_the_figures_of_the_table(capsys):
    assert splits.main() == 0
    assert capsys.readouterr().out in (splits.TABLE.parents[1] / "certify.md").read_text(encoding="utf-8")
