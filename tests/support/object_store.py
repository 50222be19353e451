"""An S3 server of the test run's own: moto's, in a process beside the tests."""

import os
import secrets
import socket
import subprocess
import sys
import urllib.request

from tests.support.waiting import eventually

KEYS = {"AWS_ACCESS_KEY_ID": "imagesearch", "AWS_SECRET_ACCESS_KEY": "imagesearch", "AWS_REGION": "us-east-1"}


class StoreServer:
    """Runs from its making until stop(), and forgets everything then; listens on 127.0.0.1 alone."""

    PAGE = 10  # objects of a listing that come with one answer

    def __init__(self) -> None:
        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            port = chosen.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        pages = {"MOTO_S3_DEFAULT_MAX_KEYS": str(self.PAGE)}
        self._process = subprocess.Popen(
            command, env=os.environ | pages, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually(self._answers, "the S3 server answers")

    def make_bucket(self) -> str:
        """Make an empty bucket and return its URL."""
        name = f"bucket-{secrets.token_hex(8)}"
        with urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT")):
            return f"s3://{name}"

    def environment(self, url: str) -> dict[str, str]:
        """Return the environment of processes that keep their indexes in this store."""
        return {"IMAGESEARCH_STORE": url, "IMAGESEARCH_STORE_ENDPOINT": self.endpoint, **KEYS}

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=1).close()
        except OSError:
            return False
        return True
