"""What a session measures leaves it as it was, and can fail."""

from __future__ import annotations


def test_compare_leaves_the_store_as_it_was(session_of, words):
    session = session_of()
    session.generate(words(60), max_new_tokens=4)
    before = session.store.tiers["tokens"].sum()
    table = session.compare(words(60) + words(5, seed=3), "full, prefix", repeat=2, max_new_tokens=6)
    frame = table.to_frame().set_index("strategy")

    assert session.store.tiers["tokens"].sum() == before
    assert session.last is table
    assert session.stats.requests == 1
    assert frame.loc["full", "hit_rate"] == 0
    assert frame.loc["prefix", "reused"] == 61
    assert frame.loc["prefix", "kl"] < 1e-9
    assert frame.loc["prefix", "top1"] == 1.0
    assert frame["same_text"].all()
    assert "strategy" in table.to_csv()
    assert "prefix" in repr(table)


def test_verify_passes_and_can_fail(own_session):
    assert own_session.verify().ok
    assert "passed" in own_session.verify()._repr_html_()
    assert own_session.verify("full").ok
    own_session.adapter.walk._own[1].register_forward_hook(lambda module, args, out: out + 0.3 * (out.shape[-2] < 20))
    report = own_session.verify()

    assert not report.ok
    assert "FAILED" in repr(report)
