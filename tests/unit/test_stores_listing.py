"""``nbkv store ls|verify|gc``, and what they are made of."""

from __future__ import annotations

import io
import re

import pytest
from entries import entry, ids_of

from nbkv.cli import main
from nbkv.errors import StoreUnavailable
from nbkv.stores import listing
from nbkv.stores.tiers.disk import DiskTier


@pytest.fixture
def spec(tmp_path):
    tier = DiskTier(root=tmp_path)
    for number in range(3):
        tier.put(entry(ids_of(number, 70 + number), pinned=number == 1))
    return f"disk:{tmp_path}"


def flip(tmp_path):
    path = min(tmp_path.rglob("*.safetensors"))
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 4
    path.write_bytes(raw)


def test_ls_names_what_is_there_the_last_used_first(spec, capsys):
    assert main(["store", "ls", spec]) == 0
    said = capsys.readouterr().out
    assert "3 entries" in said
    assert "KiB" in said or "kB" in said
    rows = listing.listing(listing.open_tiers(spec))
    assert list(rows["tokens"]) == [72, 71, 70]
    assert list(rows["pinned"]) == [False, True, False]
    assert set(rows["model"]) == {"model"}


def test_verify_reads_every_byte(spec, tmp_path, capsys):
    assert main(["store", "verify", spec]) == 0
    assert "3 entries, 0 damaged" in capsys.readouterr().out
    flip(tmp_path)
    assert main(["store", "verify", spec]) == 1
    assert "layer 1 has changed" in capsys.readouterr().out


def test_gc_removes_what_is_damaged_or_over_the_limit(spec, tmp_path, capsys):
    flip(tmp_path)
    assert main(["store", "gc", spec]) == 0
    assert "disk: 1 removed" in capsys.readouterr().out
    assert main(["store", "verify", spec]) == 0
    assert main(["store", "gc", f"{spec}?limit=1B"]) == 0
    assert "removed" in capsys.readouterr().out
    assert all(listing.listing(listing.open_tiers(spec))["pinned"])


@pytest.mark.parametrize("spec", ["nothing", "disk:/proc/none/here", "redis://127.0.0.1:1"])
def test_a_store_that_is_none_is_one_line(spec, capsys):
    assert main(["store", "ls", spec]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_tier_that_cannot_be_opened_says_which(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable, match="file"):
        listing.open_tiers(f"disk:{tmp_path}/file/x")


class Terminal(io.StringIO):
    """What somebody looks at."""

    def isatty(self):
        return True


@pytest.mark.parametrize("action", ["ls", "verify", "gc"])
def test_long_work_shows_how_far_it_is_where_somebody_looks(spec, monkeypatch, action):
    looked = Terminal()
    monkeypatch.setattr("sys.stderr", looked)
    assert main(["store", action, spec]) == 0
    assert "/3 [" in looked.getvalue()
    monkeypatch.setattr("sys.stderr", unseen := io.StringIO())
    assert main(["store", action, spec]) == 0
    assert unseen.getvalue() == "", "nothing goes into a file that is kept"


def test_files_are_written_and_read_with_a_bar(tmp_path, monkeypatch):
    looked = Terminal()
    (tmp_path / "text").write_text("Alice bought a lamp. Bob sold a chair. " * 4)
    given = [part for name in ("one", "two") for part in ("--chunk", name, str(tmp_path / "text"))]
    monkeypatch.setattr("sys.stderr", looked)
    assert main(["store", "export", "tiny", str(tmp_path / "file"), *given]) == 0
    assert re.search(r"export:.*/4 \[", looked.getvalue())
    assert main(["store", "import", "tiny", str(tmp_path / "file"), "--store", f"disk:{tmp_path}/kv"]) == 0
    assert re.search(r"import:.*/[24] \[", looked.getvalue())
