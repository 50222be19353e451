"""Milvus servers of the test run's own, in a process beside the tests; they listen on 127.0.0.1 alone."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from search.engine.milvus import Milvus
from tests.support.waiting import eventually

_LITE = """
import sys
from milvus_lite.adapter.grpc.server import run_server
run_server(sys.argv[1], "127.0.0.1", int(sys.argv[2]))
"""
_STANDALONE = """
import sys
from milvus import MilvusServer, MilvusServerConfig
server = MilvusServer(MilvusServerConfig(data_dir=sys.argv[1]), proxy_port=int(sys.argv[2]))
server.start()
print(server.server_proc.pid, flush=True)
server.server_proc.wait()
"""


class MilvusServer:
    """milvus-lite's server: it proves the calls. Its speed, and what it does under load, say nothing of Milvus's."""

    def __init__(self) -> None:
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            self.port = chosen.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = tempfile.TemporaryDirectory()
        self.pid = self.start()

    def start(self) -> int:
        """Start the server, on what it has stored, and return its process's id."""
        self._process = self._run([sys.executable, "-c", _LITE])
        eventually(self.listens, "Milvus answers")
        return self._process.pid

    def connect(self) -> Milvus:
        return Milvus(self.url, seconds=30)

    def environment(self) -> dict[str, str]:
        return {"IMAGESEARCH_MILVUS_URL": self.url}

    def fall_silent(self) -> None:
        """Answer nothing until speak(), but let others connect."""
        os.kill(self.pid, signal.SIGSTOP)

    def speak(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        with suppress(ProcessLookupError):  # killed before
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self.kill()
        self.directory.cleanup()

    def listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _run(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "text": True} | options
        return subprocess.Popen([*command, self.directory.name, str(self.port)], **options)


class StandaloneServer(MilvusServer):
    """The real server, of the newest release that PyPI has."""

    def __init__(self, python: Path) -> None:
        """python: of an environment with the package milvus."""
        self._python = python
        super().__init__()

    def start(self) -> int:
        """It takes no port that another has used a moment ago, as one that was killed has."""
        return eventually(self._started, "Milvus starts")

    def _started(self) -> int:
        self._process = self._run([str(self._python), "-c", _STANDALONE], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        return int(self._process.stdout.readline() or 0)
