"""What `make cluster` starts, as processes: searches on both servers and through nginx, and an end that leaves none."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.conftest import NO_NETWORK
from tests.support.postgres import binaries
from tests.support.processes import ROOT
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

SECONDS = 300  # until all of it answers; a minute of CPU, most of it for the demo and for five machines' models


@dataclass(frozen=True)
class Cluster:
    directory: Path
    port: int
    supervisor: "subprocess.Popen[bytes]"

    @property
    def log(self) -> str:
        return (self.directory.parent / "log").read_text()

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port + {'front': 0, 'writer': 1, 'reader': 2}[name]}"

    def wait_for(self, name: str) -> None:
        try:
            eventually(lambda: self.answers(name), f"{name} answers", seconds=SECONDS)
        except AssertionError as error:
            error.add_note(self.log)
            raise

    def answers(self, name: str) -> bool:
        assert self.supervisor.poll() is None, self.log
        with suppress(requests.RequestException):
            return requests.get(f"{self.url(name)}/api/health/ready", timeout=10).ok
        return False

    def processes(self) -> list[int]:
        """Return what runs in the session that the supervisor leads."""
        return [int(each.name) for each in Path("/proc").glob("[0-9]*") if self._is_ours(each)]

    def _is_ours(self, process: Path) -> bool:
        with suppress(OSError):
            state, _, _, session = (process / "stat").read_text().rpartition(")")[2].split()[:4]
            return state != "Z" and int(session) == self.supervisor.pid
        return False


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if not (binaries() and shutil.which("redis-server")):
        pytest.skip("PostgreSQL or Redis is not installed here")
    with tempfile.TemporaryDirectory(prefix="imagesearch-cluster-") as scratch:
        Path(scratch).chmod(0o755)  # PostgreSQL runs as another user if we are root
        started = _start(Path(scratch))
        try:
            yield started
        finally:
            started.supervisor.terminate()
            started.supervisor.wait(timeout=60)
            for process in started.processes():
                os.kill(process, signal.SIGKILL)


def _start(scratch: Path) -> Cluster:
    port = _free_ports()
    with (scratch / "log").open("wb") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "imagesearch.cluster", str(scratch / "cluster")],
            cwd=ROOT,
            env=_environment(scratch, port),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Cluster(scratch / "cluster", port, supervisor)


def _free_ports() -> int:
    """Return the first of six."""
    return next(each for each in range(5400, 60000, 10) if all(_is_free(each + beside) for beside in range(6)))


def _environment(scratch: Path, port: int) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", str(scratch)),
        "PORT": str(port),
        "IMAGESEARCH_WEIGHTS": "builtin",
        "HTTPS_PROXY": NO_NETWORK,
        "https_proxy": NO_NETWORK,
        "http_proxy": NO_NETWORK,  # not for what is on this machine
    }


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_both_servers_and_nginx_find_a_demo_picture_and_only_one_takes_writes(cluster: Cluster) -> None:
    names = ["writer", "reader", *(["front"] if shutil.which("nginx") else [])]
    for name in names:
        cluster.wait_for(name)
    picture = next((cluster.directory / "media/demo").rglob("*.jpg"))
    for name in names:
        answer = requests.post(f"{cluster.url(name)}/api/search/demo", files={"image": picture.open("rb")}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert cluster.directory / "media/demo" / answer.json()["results"][0]["fullPath"] == picture
    wanted = {"writer": 201, "reader": 403, "front": 200}
    for name in names:
        assert _put(cluster, name, picture).status_code == wanted[name], name


def _put(cluster: Cluster, name: str, picture: Path) -> requests.Response:
    password = re.findall(r"user admin, password (\S+)", cluster.log)[0]
    address = f"{cluster.url(name)}/api/images/demo/New/picture.jpg"
    return requests.put(address, picture.read_bytes(), auth=("admin", password), timeout=60)


def test_indexes_lie_in_the_store_and_as_copies_on_each_machine(cluster: Cluster) -> None:
    assert not list((cluster.directory / "embeddings").iterdir())
    for name in ("writer", "reader"):
        assert list((cluster.directory / name / "replica").rglob("faiss_index.bin"))


def test_nginx_has_nothing_to_complain_of(cluster: Cluster) -> None:
    assert "[emerg]" not in cluster.log


def test_a_second_start_leaves_alone_what_the_first_one_uses(cluster: Cluster) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "imagesearch.cluster", str(cluster.directory)],
        cwd=ROOT,
        env=_environment(cluster.directory.parent, _free_ports()),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (second.returncode, f"What was started in {cluster.directory} still runs" in second.stderr) == (1, True)
    assert (cluster.directory / "postgres/PG_VERSION").exists()
    assert cluster.answers("writer")


def test_ctrl_c_ends_all_of_it(cluster: Cluster) -> None:
    listening = [cluster.port + beside for beside in range(6) if not _is_free(cluster.port + beside)]
    assert len(listening) >= 5
    os.killpg(cluster.supervisor.pid, signal.SIGINT)
    assert cluster.supervisor.wait(timeout=60) == 0
    eventually(lambda: not cluster.processes(), "all have ended", seconds=10)
    assert all(map(_is_free, listening))
