"""Faults as machines have them, under a session: a disk that is full, rights that are lost, memory that runs out.

Each ends in the answer of full and a counted event, and once the fault is over the store serves as before.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess

import pytest
import torch
from redis_server import RedisServer

from nbkv.events import StoreFault
from nbkv.stores.memory import MemoryStore
from nbkv.stores.tiered import TieredStore
from nbkv.stores.tiers.entry import Entry
from nbkv.stores.tiers.host import HostTier
from nbkv.stores.tiers.redis import RedisTier

NOBODY = 65534
needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed")


def answers(session, prompt):
    result = session.generate(prompt, max_new_tokens=4)
    assert result.token_ids == session.generate(prompt, strategy="full", max_new_tokens=4).token_ids
    return result


def heard(session):
    told = []
    session.events.add(told.append)
    return lambda: [event for event in told if isinstance(event, StoreFault)]


def rested(session):
    """Let no tier be left alone any longer for what has just happened."""
    for tier in session.store._below:
        tier._rests_until = 0.0


def forget(session):
    """Have everything written, and memory empty: what comes next is looked for in tiers."""
    session.store.flush()
    session.store.clear()
    rested(session)


# a disk that is full


@contextlib.contextmanager
def small_disk(folder):
    """A file system of 300 kB; raises ``OSError`` where nobody may mount one."""
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    line = [mount, "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if None in (mount, umount) or subprocess.run(line, check=False, capture_output=True).returncode:
        raise OSError
    try:
        yield lambda: subprocess.run([mount, "-o", "remount,size=9m", str(folder)], check=True)
    finally:
        subprocess.run([umount, "-l", str(folder)], check=True)


@contextlib.contextmanager
def short_files():
    """Files of this process end at 150 kB: the kernel refuses to write more, as it does where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, before[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("spec", ["memory+disk:{}", "disk:{}", "memory+disk:{}?writes=back"])
@pytest.mark.parametrize("how", ["mounted", "files"])
def test_a_disk_that_is_full(session_of, words, tmp_path, how, spec):
    folder = tmp_path / "small"
    with contextlib.ExitStack() as stack:
        try:
            enlarge = stack.enter_context(small_disk(folder) if how == "mounted" else short_files())
        except OSError:
            pytest.skip("this user may not mount a file system; the limit on files is tried instead")
        session = session_of(store=spec.replace("{}", str(folder)))
        stack.callback(session.close)
        faults = heard(session)
        for number in range(6):
            answers(session, words(170, number))
            session.store.flush()
            rested(session)
        assert faults()
        assert session.store.figures()[1]["faults"] == len(faults())
        forget(session)
        for number in range(6):  # what is there is whole, what is not is computed
            answers(session, words(170, number))
        kept = {path.stem for path in folder.rglob("*.safetensors")}
        assert {str(key) for key in tuple(session.store.below[0].keys())} <= kept
        enlarge()
        forget(session)
        answers(session, words(170, 9))
        forget(session)
        assert answers(session, words(170, 9)).tokens.reused == 170


# rights that are lost


@contextlib.contextmanager
def without_rights(folder):
    """Nothing in ``folder`` may be read or written; as root, which may anything, this process is somebody else."""
    if os.geteuid() == 0:
        os.chmod(folder.parent, 0o700)  # noqa: PTH101
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        folder.chmod(0)
        try:
            yield
        finally:
            folder.chmod(0o700)


@pytest.mark.parametrize("spec", ["memory+disk:{}", "disk:{}", "memory+file://{}"])
def test_permission_lost(session_of, words, tmp_path, spec):
    folder = tmp_path / "kv"
    folder.mkdir()
    session = session_of(store=spec.replace("{}", str(folder)))
    answers(session, words(90))
    forget(session)
    faults = heard(session)
    with without_rights(folder):
        assert answers(session, words(90)).tokens.reused == 0
        answers(session, words(90, 1))
        session.store.flush()
    assert faults()
    assert session.store.figures()[1]["faults"] == len(faults())
    forget(session)
    assert answers(session, words(90)).tokens.reused == 90


# a clock that goes backwards


@pytest.mark.parametrize("jump", [-1e9, -3600.0, 1e9])
def test_a_clock_that_jumps(session_of, words, tmp_path, jump):
    session = session_of(store=f"memory+disk:{tmp_path}?limit=500kB")
    (tier,) = session.store.below
    offset = [0.0]
    clock = tier.clock
    tier.clock = tier.index.clock = session.store.clock = lambda: clock() + offset[0]
    for number in range(9):
        answers(session, words(150, number))
        session.store.flush()
        offset[0] += jump
        assert tier.nbytes <= tier.limit
    tier.collect()
    forget(session)
    assert answers(session, words(150, 8)).tokens.reused == 150, "the newest stays, whatever the clock says"


# memory that runs out


MEMORY = {
    "of Python": MemoryError(),
    "of torch on a CPU": RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    "of a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
}


@pytest.fixture
def store_named(tmp_path):
    servers = []

    def made(name):
        if name == "redis":
            if shutil.which("redis-server") is None:
                pytest.skip("redis-server is not installed")
            servers.append(RedisServer(tmp_path).start())
            return f"memory+{servers[-1].store}"
        if name == "host":
            return TieredStore(MemoryStore(2**30), [HostTier(writes="through")])
        return {"disk": f"memory+disk:{tmp_path}", "fsspec": f"memory+file://{tmp_path}/kv"}[name]

    yield made
    for server in servers:
        server.kill()


@pytest.mark.parametrize("lack", MEMORY)
@pytest.mark.parametrize("name", ["disk", "host", "redis", "fsspec"])
def test_memory_that_runs_out_while_kv_are_loaded(session_of, words, store_named, monkeypatch, name, lack):
    session = session_of(store=store_named(name))
    answers(session, words(90))
    forget(session)
    told = []
    session.store.bus.add(told.append)
    read = Entry.layer

    def fail(entry, layer, *into):
        if layer == 2:
            raise MEMORY[lack]
        return read(entry, layer, *into)

    monkeypatch.setattr(Entry, "layer", fail)
    assert answers(session, words(90)).tokens.reused == 0
    faults = [event for event in told if isinstance(event, StoreFault)]
    assert faults
    assert {event.why for event in faults} == {"there is no memory for an entry"}
    assert session.store.figures()[1]["faults"] == len(faults)
    monkeypatch.undo()
    forget(session)
    assert answers(session, words(90)).tokens.reused == 90, "the session and the entry are as before"


# a server that goes in the middle


def spoil(client):
    """Put garbage in the place of layers, whether they are fields of a hash or strings of their own."""
    for name in client.keys("nbkv:*"):
        if client.type(name) == b"hash" and client.hexists(name, "1"):
            client.hset(name, "1", b"garbage" * 99)
        elif client.type(name) == b"string" and client.strlen(name) > 9999:
            client.set(name, b"garbage" * 99)


@needs_redis
@pytest.mark.parametrize("when", ["find", "get"])
@pytest.mark.parametrize("what", ["killed", "restarted", "stopped", "garbage"])
def test_redis_in_mid_load(session_of, words, tmp_path, monkeypatch, what, when):
    server = RedisServer(tmp_path).start()
    try:
        session = session_of(store=f"memory+{server.store}")
        answers(session, words(90))
        forget(session)
        own, faults, done, client = getattr(RedisTier, when), heard(session), [], session.store.below[0].client

        def then(tier, *given):
            found = own(tier, *given)
            if found and not done:
                done.append(what)
                if what == "stopped":
                    server.pause(client)
                elif what == "garbage":
                    spoil(client)
                else:
                    server.kill()
                    if what == "restarted":
                        server.start()
            return found

        monkeypatch.setattr(RedisTier, when, then)
        assert answers(session, words(90)).tokens.reused == 0
        assert done
        assert len(faults()) == session.store.figures()[1]["faults"] or what != "garbage"
        assert faults() or what == "restarted"  # a server that has forgotten everything is a plain miss
        monkeypatch.undo()
        if what == "stopped":
            server.go_on(client)
        elif what == "killed":
            server.start()
        forget(session)
        answers(session, words(90))
        forget(session)
        assert answers(session, words(90)).tokens.reused == 90
    finally:
        server.kill()
