"""Counting in files on a disk without room, in a process of its own, which a mistake here would kill."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from tests.support.processes import ROOT

COUNT = """
from search.monitoring.metrics import REQUESTS
for number in range(2000):  # more than the first size of the file holds
    REQUESTS.labels("GET", "/api/health", f"company-{number}", 200).inc()
for _ in range(2):
    REQUESTS.labels("GET", "/api/health", "company-1999", 200).inc()
print([s.value for m in REQUESTS.collect() for s in m.samples if s.labels.get("company") == "company-1999"][0])
"""


def count(directory: Path, limit: Callable[[], None] | None = None) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "PROMETHEUS_MULTIPROC_DIR": str(directory)}
    command = [sys.executable, "-c", COUNT]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, preexec_fn=limit
    )


def counted(directory: Path) -> float:
    """Return what /metrics would tell."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))
    return sum(s.value for m in registry.collect() for s in m.samples if s.name == "imagesearch_requests_total")


def test_with_room_all_is_in_the_files(tmp_path: Path) -> None:
    result = count(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == ["3.0"]
    assert counted(tmp_path) == 2002
    for file in tmp_path.iterdir():
        assert file.stat().st_blocks * 512 >= file.stat().st_size  # no holes


@pytest.mark.slow
@pytest.mark.parametrize("bytes_left", [0, 100_000])
def test_without_room_a_process_counts_on_in_memory_and_says_so_once_a_file(tmp_path: Path, bytes_left: int) -> None:
    result = count(tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, bytes_left)))
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["3.0"]
    assert "is missing from /metrics" in result.stderr
    assert len(result.stderr.splitlines()) <= 3  # counters, histograms, gauges
    assert 0 <= counted(tmp_path) < 2002  # and /metrics can be read


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_kills_no_process(small_disk: Path) -> None:
    result = count(small_disk)
    assert result.returncode != -signal.SIGBUS
    assert (result.returncode, result.stdout.split()) == (0, ["3.0"])
    assert "No space left on device" in result.stderr
    counted(small_disk)
