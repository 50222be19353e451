"""The server's own configuration, in real processes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from search.engine.model import onnx_model
from search.engine.model.weights import BUILTIN
from tests.support.processes import ROOT, copy_sqlite
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

CORES = os.cpu_count() or 1


@pytest.mark.parametrize("asked_by", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_asked_to_end_while_it_exports_the_model_does_not_wait_for_it(
    tmp_path: Path, sqlite_tables: Path, asked_by: signal.Signals
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "SECRET_KEY": "x",
        "DATABASE_URL": copy_sqlite(sqlite_tables, tmp_path / "db.sqlite3"),
        "IMAGESEARCH_CACHE_DIR": str(tmp_path / "cache"),
        "IMAGESEARCH_DEVICE": "cpu",
        "IMAGESEARCH_WEIGHTS": "builtin",
        "WEB_PROCESSES": "2",
    }
    command = ["gunicorn", "--config", "imagesearch/gunicorn_conf.py", "--bind", "127.0.0.1:0", "imagesearch.asgi"]
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, stderr=stderr, start_new_session=True
        )
    eventually(lambda: "Exporting" in log.read_text() and running(tmp_path / "cache"), "the export runs")
    os.killpg(server.pid, asked_by)
    server.wait(30)
    eventually(lambda: not running(tmp_path / "cache"), "the export has ended")
    assert not list((tmp_path / "cache").glob("*.onnx"))  # nobody waited for it
    assert "torch does" not in log.read_text()
    assert "Traceback" not in log.read_text()


def running(cache: Path) -> int:
    """Return how many exports into this folder are under way."""
    return sum(_is_export_to(cache, process) for process in Path("/proc").glob("[0-9]*/cmdline"))


def _is_export_to(cache: Path, process: Path) -> bool:
    try:
        arguments = process.read_text().split("\0")
    except OSError:  # it has ended
        return False
    return "search.engine.model.export" in arguments and str(cache) in arguments


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache in which the model lies ready."""
    cache = tmp_path_factory.mktemp("cache")
    onnx_model.load_embedder(BUILTIN, cache=cache, hub=cache)
    return cache


@pytest.mark.parametrize(("processes", "threads"), [(1, CORES), (CORES, 1)], ids=["one process", "one a core"])
def test_each_process_runs_the_model_on_its_share_of_the_cores(
    tmp_path: Path, sqlite_tables: Path, exported: Path, processes: int, threads: int
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "SECRET_KEY": "x",
        "DATABASE_URL": copy_sqlite(sqlite_tables, tmp_path / "db.sqlite3"),
        "IMAGESEARCH_CACHE_DIR": str(exported),
        "IMAGESEARCH_DEVICE": "cpu",
        "IMAGESEARCH_WEIGHTS": "builtin",
        "WEB_PROCESSES": str(processes),
    }
    command = ["gunicorn", "--config", "imagesearch/gunicorn_conf.py", "--bind", "127.0.0.1:0", "imagesearch.asgi"]
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        server = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment, stderr=stderr)

    def told() -> list[str]:
        return re.findall(r"Loaded the model .*, threads: (\d+)", log.read_text())

    try:
        eventually(lambda: len(told()) == processes, "every process loads the model")
        assert told() == [str(threads)] * processes
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
