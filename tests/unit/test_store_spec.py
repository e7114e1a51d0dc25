"""Specifications of stores: sizes, default limits, policies, and what is refused."""

from __future__ import annotations

import pytest

from nbkv.errors import BadOption
from nbkv.events import Bus
from nbkv.stores.spec import check_spec, masked, open_store, parse_seconds, parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 4 * 2**30), ("1.5 MiB", 3 * 2**19), ("500MB", 500_000_000), ("7", 7)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


def test_the_default_limit_fills_no_device_more_than_a_quarter(monkeypatch):
    free = {"cuda:0": 4 * 2**30, "cuda:1": 16 * 2**30}
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free[device], 2**40))

    assert open_store("memory", Bus(), "cuda:0").limit == 2**30
    assert open_store("memory", Bus(), "cuda:0", "cuda:1").limit == 2 * 2**30
    assert open_store("memory", Bus(), "cuda:0", "cuda:1", "cuda:1", "cuda:1").limit == 4 * 2**30
    assert open_store("memory", Bus(), *["cuda:1"] * 9).limit == 4 * 2**30
    free["cuda:1"] = 2**40
    assert open_store("memory", Bus(), "cuda:1").limit == 8 * 2**30


@pytest.mark.parametrize(
    "spec",
    [
        "disk:",
        "disk:x?limit=many",
        "disk:x?form=int3",
        "disk:x?colour=red",
        "ftp",
        "disk:x+memory",
        "memory?device=lots",
        "memory?policy=lfu",
        "memory?colour=red",
        "",
    ],
)
def test_bad_specifications_say_what_is_accepted(spec):
    with pytest.raises(BadOption, match="accepted"):
        open_store(spec, Bus(), "cpu")


@pytest.mark.parametrize(
    "spec", ["memory?policy=best", "memory?alpha=-1", "memory?policy=lru&alpha=1", "memory?alpha="]
)
def test_a_store_says_what_policies_there_are(spec):
    with pytest.raises(BadOption, match="accepted"):
        open_store(spec, Bus(), "cpu")


def test_the_policy_sets_alpha():
    assert open_store("memory?policy=lru", Bus(), "cpu").alpha == 0
    assert open_store("memory?policy=marconi&alpha=2.5", Bus(), "cpu").alpha == 2.5


@pytest.mark.parametrize(
    ("spec", "places"),
    [
        ("memory+disk:/a+redis://h:1/0", ["memory", "/a", "redis://h:1/0"]),
        ("disk:/a+b", ["/a+b"]),
        ("disk:/a%2Bmemory", ["/a+memory"]),
        ("memory?policy=lru+s3://bucket/kv?limit=1GiB", ["memory", "s3://bucket/kv"]),
        (["memory", "disk:/a+disk:/b"], ["memory", "/a+disk:/b"]),
    ],
)
def test_tiers_are_split_at_a_plus_before_a_known_scheme(spec, places):
    assert [tier.place for tier in check_spec(spec)] == places


@pytest.mark.parametrize("spec", ["redis://:pw@h/0", "rediss://u:pw@h", "ftp://u:pw@h/x"])
def test_credentials_are_masked(spec):
    assert "pw" not in masked(spec) + repr(check_spec(spec))
    assert masked(spec).partition("@")[2] == spec.partition("@")[2]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("12h", 43200), ("7d", 604800), ("5", 5), ("1.5m", 90)])
def test_times(text, seconds):
    assert parse_seconds(text) == seconds
