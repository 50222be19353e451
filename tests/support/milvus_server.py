"""Milvus servers of the test run's own: milvus-lite's, in a process beside the tests."""

import os
import signal
import socket
import subprocess
import sys
import tempfile

from search.engine.milvus import Milvus
from tests.support.waiting import eventually

_RUN = """
import sys
from milvus_lite.adapter.grpc.server import run_server
run_server(sys.argv[1], "127.0.0.1", int(sys.argv[2]))
"""


class MilvusServer:
    """Runs from its making until stop(), and forgets everything then; listens on 127.0.0.1 alone.

    It proves the calls; its speed, and what it does under load, say nothing of a real server's.
    """

    def __init__(self) -> None:
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            port = chosen.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._directory = tempfile.TemporaryDirectory()
        command = [sys.executable, "-c", _RUN, self._directory.name, str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: _listens(port), "Milvus answers", seconds=30)

    def connect(self) -> Milvus:
        return Milvus(self.url, seconds=20)

    def environment(self) -> dict[str, str]:
        return {"IMAGESEARCH_MILVUS_URL": self.url}

    def fall_silent(self) -> None:
        """Answer nothing until speak(), but let others connect."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def speak(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
