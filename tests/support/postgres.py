"""A PostgreSQL server of the test run's own, from Debian's binaries."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.support.waiting import eventually

_USER = "postgres"


def binaries() -> Path | None:
    """Return the directory with initdb and postgres of the newest version installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class Cluster:
    """Runs from its making until stop(); listens on 127.0.0.1 alone."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._directory = Path(tempfile.mkdtemp(prefix="imagesearch-postgres-"))
        self._as_user = []
        if os.geteuid() == 0:  # as whom postgres refuses to run
            owner = pwd.getpwnam(_USER)
            os.chown(self._directory, owner.pw_uid, owner.pw_gid)
            self._as_user = ["setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        self._port = _free_port()
        self._run(
            "initdb", "--auth=trust", f"--username={_USER}", "--no-sync", "--encoding=UTF8", f"--pgdata={self._data}"
        )
        self._server = self._start()

    def url(self, database: str = "postgres") -> str:
        return f"postgres://{_USER}@127.0.0.1:{self._port}/{database}"

    def create(self, database: str, *, template: str = "template1") -> str:
        """Make a database, a copy of template, and return its URL."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database} TEMPLATE {template}".encode())
        return self.url(database)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Shut the server down, which cuts all connections, and start it again at the end of the block."""
        self._server.send_signal(signal.SIGINT)
        self._server.wait()
        try:
            yield
        finally:
            self._server = self._start()

    def stop(self) -> None:
        self._server.send_signal(signal.SIGQUIT)  # at once, whoever is still connected
        self._server.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _start(self) -> "subprocess.Popen[bytes]":
        settings = {
            "port": self._port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._directory,
            "fsync": "off",
            "max_connections": 100,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = (self._directory / "log").open("ab")
        server = subprocess.Popen(
            [*self._as_user, str(self._binaries / "postgres"), "-D", str(self._data), *options],
            cwd=self._directory,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        eventually(self._answers, "PostgreSQL answers")
        return server

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(self._binaries / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._directory)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])
