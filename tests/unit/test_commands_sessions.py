"""Magics that load, switch, check and close sessions, and show their stores."""

import re
import shutil

import pytest
from redis_server import RedisServer
from shells import new_shell, refused, run

from nbkv.session.verify import Report

pytestmark = pytest.mark.usefixtures("fresh_notebook")


def test_sessions_are_opened_switched_and_closed_by_name(shell, magics, session):
    second = run(shell, "%kvload tiny -s full --as second --store memory?device=1GiB")
    assert magics.sessions.current is second
    assert second.strategy.name == "full"
    assert not session.closed
    first = magics.sessions.names[0]
    assert run(shell, f"%kvuse --session {first}") is session
    assert run(shell, "%kvuse --session second prefix") is second
    assert second.strategy.name == "prefix"
    run(shell, "%kvclose")
    assert second.closed
    assert magics.sessions.current is session
    assert first in run.stdout


def test_loading_without_a_name_closes_the_former_session_only_after_success(shell, magics, session):
    run(shell, "%kvload tiny --as second")
    second = magics.sessions.current
    refused(shell, "%kvload ./no/such/folder")
    assert magics.sessions.current is second
    assert not second.closed
    third = run(shell, "%kvload tiny")
    assert magics.sessions.current is third
    assert second.closed
    assert not session.closed


def test_the_same_name_replaces_its_session(shell, magics):
    second, third = (run(shell, "%kvload tiny --as second") for _ in range(2))
    assert second.closed
    assert magics.sessions.current is third
    assert magics.sessions.names[1:] == ["second"]


def test_without_a_session_every_magic_says_how_to_get_one(tmp_path):
    shell = new_shell(tmp_path)
    run(shell, "%load_ext nbkv")
    for cell in (
        "%%kvgen\nx",
        "%%kvchunk n\nx",
        "%%kvcompare full\nx",
        "%kvuse full",
        "%kvstats",
        "%kvverify",
        "%kvclose",
    ):
        assert "%kvload" in refused(shell, cell)
    assert "Strategies" in repr(run(shell, "%kvlist"))
    run(shell, "%unload_ext nbkv")


def test_the_store_can_be_looked_at_cleared_and_replaced(shell, session):
    run(shell, "%%kvchunk notes\nMarta has 3 apples .")
    tiers = run(shell, "%kvstore")
    assert tiers["entries"].sum() > 0
    assert len(run(shell, "%kvstore ls")) > 0
    assert run(shell, "%kvstore clear")["entries"].sum() == 0
    former = session.store
    run(shell, "%kvstore memory?device=64MiB")
    assert session.store is not former
    assert session.store.tiers["limit"].tolist() == [64 * 2**20]


def test_a_self_check_is_a_report(shell):
    report = run(shell, "%kvverify")
    assert isinstance(report, Report)
    assert report.ok
    assert report.strategy == "prefix"
    assert "prefix on tiny: passed" in run.stdout
    assert "relocation" in report._repr_html_()


@pytest.mark.parametrize("line", ["full cacheblend(budget=0.2, check_layers=(0, 1))", "full, cacheblend(0.3)"])
def test_several_strategies_are_checked_in_one_report(shell, line):
    report = run(shell, f"%kvverify {line}")
    assert report.ok
    assert [spec.split("(")[0] for spec in report.strategy.split(", ")[:2]] == ["full", "cacheblend"]


def test_sizes_in_a_stores_table_are_read_and_stay_numbers(shell, session):
    run(shell, "%kvstore memory?device=5800000000")
    table = run(shell, "%kvstore")
    assert "5.80 GB" in repr(table)
    assert "5.80 GB" in table._repr_html_()
    assert table["limit"].tolist() == [5_800_000_000]
    run(shell, "%%kvchunk notes\nMarta has 3 apples .")
    listed = run(shell, "%kvstore ls")
    assert re.search(r"\d kB|\d MB", repr(listed))
    assert listed["bytes"].dtype.kind == "i"
    assert not any(digits in repr(table) for digits in ("5800000000", "5,800,000,000"))


STORES = {
    "disk:{}": ("disk", ""),
    "memory+disk:{}": ("disk", ""),
    "memory?device=64MiB+disk:{}?limit=3GiB&policy=cost&ttl=7d": ("disk", ""),
    "memory+disk:{}?form=int8&policy=lfu": ("disk", "int8"),
    "memory+disk:{}?form=fp8&policy=rank&writes=back": ("disk", "fp8"),
    "memory+disk:{}/a+disk:{}/b": ("disk", ""),
    "memory+file://{}": ("file", ""),
    "memory+memory://{}": ("memory://", ""),
    "memory+redis": ("redis", ""),
}


@pytest.mark.parametrize("spec", STORES)
def test_every_kind_of_store_is_opened_shown_and_found_again(shell, session, tmp_path, spec):
    (name, form), place = STORES[spec], spec.replace("{}", f"{tmp_path}/kv")
    server = None
    if spec == "memory+redis":
        if shutil.which("redis-server") is None:
            pytest.skip("redis-server is not installed")
        server = RedisServer(tmp_path).start()
        place = f"memory+{server.store}&limit=1GiB"
    try:
        opened = run(shell, f"%kvstore {place}")
        assert opened["tier"].tolist()[0] == "memory"
        assert opened["tier"].tolist()[1].startswith(name)
        run(shell, "%%kvgen -n 2\n" + "Marta has 3 apples . " * 20)
        session.store.flush()
        table = run(shell, "%kvstore")
        below = table.iloc[1:]
        assert (below["entries"] == 1).all()
        assert (below["form"] == form).all()
        assert (below["error"] > 0).all() == bool(form)
        for shown in (repr(table), table._repr_html_()):
            assert re.search(r"\d kB|\d MB", shown)
            assert not re.search(r"\d{7}", shown), "bytes that nobody reads"
            assert "nan" not in shown
            assert re.search(r"\d %", shown) or not form
        cleared = run(shell, "%kvstore clear")
        assert (cleared["entries"].iloc[0], cleared["entries"].iloc[1:].min()) == (0, 1)
        assert len(run(shell, "%kvstore ls")) == 0
        former = session.store
        run(shell, f"%kvstore {place}")
        assert session.store is not former
        again = run(shell, "%%kvgen -n 2\n" + "Marta has 3 apples . " * 20)
        assert again.tokens.reused == again.tokens.prompt - 1
        assert any(" of KV from " in note and form in note for note in again.notes)
    finally:
        run(shell, "%kvstore memory")
        if server is not None:
            server.kill()


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("disk:", "unknown store"),
        ("memory+disk:x?form=int3", "accepted: int8, fp8, kvzip"),
        ("memory+disk:x?policy=best", "accepted: lru, lfu, cost, rank"),
        ("memory+disk:x?limit=much", "not a size"),
        ("memory+redis://:secret@127.0.0.1:1", "cannot be opened"),
        ("disk:/proc/none/here", "cannot be opened"),
        ("memory+disk:x?form=int8+disk:y", "one form"),
    ],
)
def test_a_store_that_is_none_is_one_line_and_the_old_one_stays(shell, session, spec, told):
    former = session.store
    line = refused(shell, f"%kvstore {spec}")
    assert told in line
    assert "secret" not in line
    assert session.store is former


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("cacheblend", "cacheblend(budget=0.15)"),
        ("cacheblend(budget=0.2)", "cacheblend(budget=0.2)"),
        ("cacheblend(check_layers=(0,))", "cacheblend(budget=0.15, check_layers=(0,))"),
        ("prefix", "prefix"),
    ],
)
def test_a_report_says_at_which_budget(spec, told):
    from nbkv.session.verify import with_amount
    from nbkv.strategy import parse

    assert with_amount(parse(spec)) == told
    assert parse(told) == parse(spec)


def test_kvplan_shows_what_older_tokens_cost(shell, monkeypatch):
    from nbkv.families.residual import planner

    monkeypatch.setattr(planner, "_pure", lambda adapter: ["ids", "layers", "host"])
    plan = run(shell, "%kvplan -n 16")
    assert plan.tokens == 16
    assert plan.pick in {"ids", "layers", "first(4)"}
