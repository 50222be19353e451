"""A Redis of a test's own."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.waiting import eventually


@contextmanager
def redis_server(directory: Path) -> Iterator[int]:
    """Run one while the block runs, in a directory that is there, and yield its port on 127.0.0.1."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("Redis is not installed here: no redis-server")
    port = free_port()
    process = subprocess.Popen(
        [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(directory)],
        stdout=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "Redis listens")
        yield port
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
