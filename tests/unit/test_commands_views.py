"""Magics that show figures and plots."""

import pytest
from shells import refused, run

pytestmark = pytest.mark.usefixtures("fresh_notebook")


def test_stats_list_and_plot(shell, session):
    run(shell, "%%kvgen -n 2\nhello")
    assert run(shell, "%kvstats").to_dict()["requests"] == len(session.history())
    shown = run(shell, "%kvlist")
    for part in ("prefix", "tiny", "(current)", "smollm2"):
        assert part in repr(shown)
        assert part in shown._repr_html_()
    history = run(shell, "%kvplot")._repr_mimebundle_()
    assert "hit rate" in history["text/plain"]
    run(shell, "%%kvcompare prefix -n 2 --repeat 1\nhello")
    comparison = run(shell, "%kvplot")._repr_mimebundle_()
    assert comparison["text/plain"] == repr(shell.user_ns["_kv"])
    assert "application/vnd.plotly.v1+json" in comparison


def test_a_plot_of_nothing_is_refused(shell):
    run(shell, "%kvload tiny --as second")
    assert "nothing to plot" in refused(shell, "%kvplot")


@pytest.mark.parametrize("magic", ["%kvdash", "%kvplay", "%kvchat"])
def test_a_view_can_be_asked_for_again_and_for_another_session(shell, session, magic):
    first = run(shell, magic)
    assert run(shell, magic) is first
    run(shell, "%kvload tiny --as second")
    assert run(shell, magic) is not first
    run(shell, f"%kvuse --session {session.name}")
    assert run(shell, magic) is first
