"""A Redis server for the tests of stores, of this machine's own ``redis-server``; killed and started as they like."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess

import redis
from waiting import PATIENCE_S, until

TRIES = 5  # for a port that nobody else takes meanwhile


class RedisServer:
    """Its ``url`` has clients wait as long as it takes: how fast a server answers is nothing that a test measures."""

    def __init__(self, folder):
        self.folder = folder
        self.port = 0
        self.process = None

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def store(self):
        """The specification of a store in this server."""
        return f"{self.url}?timeout={PATIENCE_S:.0f}s"

    def start(self):
        """Start at a free port, or at the former one again."""
        for _ in range(TRIES):
            port = self.port or free_port()
            if self._begin(port):
                self.port = port
                return self
        message = f"redis-server has not started: it ended {TRIES} times"
        raise OSError(message)

    def _begin(self, port):
        program = shutil.which("redis-server")
        line = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        self.process = subprocess.Popen(line, stdout=subprocess.DEVNULL)
        with redis.Redis(port=port, socket_timeout=PATIENCE_S) as client:
            return until(lambda: "ended" if self.process.poll() is not None else answers(client)) != "ended"

    def pause(self, client):
        """Answer nothing until ``go_on``; ``client`` gives up soon, as nothing that it waits for will come."""
        self.process.send_signal(signal.SIGSTOP)
        patience(client, 0.05)

    def go_on(self, client):
        self.process.send_signal(signal.SIGCONT)
        patience(client, PATIENCE_S)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.process = None


def patience(client, seconds):
    """Have the open connections of ``client`` and those to come wait so long for an answer."""
    pool = client.connection_pool
    pool.connection_kwargs |= {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    for connection in pool._available_connections:
        connection.socket_timeout = seconds
        if connection._sock is not None:
            connection._sock.settimeout(seconds)
            connection._parser.on_connect(connection)  # it puts the timeout back that it began with


def answers(client):
    try:
        return client.ping()
    except redis.ConnectionError:
        return False


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
