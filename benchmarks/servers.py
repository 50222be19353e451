"""Servers for the benchmarks: started, asked and weighed from outside."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Server:
    address: str
    pid: int  # of the process whose children serve


@dataclass(frozen=True)
class Service:
    address: str
    supervisor: int  # its process

    def process(self, word: str) -> int | None:
        """Return the process, started by the supervisor, whose command line has the word; None where there is none."""
        for process in _children(self.supervisor):
            with suppress(OSError):
                if word in (process / "cmdline").read_text():
                    return int(process.name)
        return None


@contextmanager
def gunicorn(arguments: list[str], environment: dict[str, str]) -> Iterator[Server]:
    """Serve with gunicorn and these arguments while the block runs, on a free port."""
    port = _free_port()
    command = [sys.executable, "-m", "gunicorn", *arguments, "--bind", f"127.0.0.1:{port}"]
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment | {"PORT": str(port)})
    try:
        _wait_until_open(port)
        yield Server(f"http://127.0.0.1:{port}", server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


@contextmanager
def service(environment: dict[str, str]) -> Iterator[Service]:
    """Run what `make run` leaves running while the block runs, on a free port."""
    port = _free_port()
    given = {"HOST": "127.0.0.1", "PORT": str(port)}
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "imagesearch.supervise"],
        cwd=ROOT,
        env=os.environ | environment | given,
        stdout=sys.stderr,
    )
    try:
        _wait_until_open(port)
        yield Service(f"http://127.0.0.1:{port}", supervisor.pid)
    finally:
        supervisor.terminate()
        supervisor.wait(60)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait_until_open(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


def post(address: str, company: str, photo: bytes) -> int:
    """Search with a photograph; return the number of results."""
    body = (
        b'--bench\r\nContent-Disposition: form-data; name="image"; filename="query.jpg"\r\n'
        b"Content-Type: image/jpeg\r\n\r\n" + photo + b"\r\n--bench--\r\n"
    )
    request = urllib.request.Request(
        f"{address}/api/search/{company}", body, {"Content-Type": "multipart/form-data; boundary=bench"}
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return len(json.load(response)["results"])


def memory_of_workers(server: int) -> dict[str, float]:
    """Return megabytes over the server's worker processes: resident, private, and with shared pages counted once."""
    totals = {"processes": 0.0, "largest_resident_mb": 0.0, "largest_private_mb": 0.0, "together_mb": 0.0}
    for process in _children(server):
        try:
            lines = (line.split() for line in (process / "smaps_rollup").read_text().splitlines()[1:])
            kilobytes = {line[0].rstrip(":"): int(line[1]) for line in lines}
        except OSError:
            continue
        totals["processes"] += 1
        private = kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]
        totals["largest_resident_mb"] = max(totals["largest_resident_mb"], kilobytes["Rss"] / 1024)
        totals["largest_private_mb"] = max(totals["largest_private_mb"], private / 1024)
        totals["together_mb"] += kilobytes["Pss"] / 1024
    return totals


def _children(parent: int) -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                yield process
