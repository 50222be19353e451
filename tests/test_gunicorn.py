"""The server's own configuration, in real processes."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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
        "WEB_PROCESSES": "2",  # one exports, the other waits for it
    }
    command = ["gunicorn", "--config", "imagesearch/gunicorn_conf.py", "--bind", "127.0.0.1:0", "imagesearch.wsgi"]
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env=environment, stderr=stderr, start_new_session=True
        )
    eventually(lambda: "Exporting" in log.read_text() and running(tmp_path / "cache"), "the export runs")
    eventually(lambda: log.read_text().count("Loading the model") == 2, "both processes wait for it")
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


@pytest.mark.parametrize(("processes", "threads"), [(1, CORES), (CORES, 1)], ids=["one process", "one a core"])
def test_each_process_runs_the_model_on_its_share_of_the_cores(
    tmp_path: Path, sqlite_tables: Path, processes: int, threads: int
) -> None:
    (tmp_path / "weights.pth").write_text("of no model")
    environment = {
        "PATH": os.environ["PATH"],
        "SECRET_KEY": "x",
        "DATABASE_URL": copy_sqlite(sqlite_tables, tmp_path / "db.sqlite3"),
        "IMAGESEARCH_CACHE_DIR": str(tmp_path / "cache"),
        "IMAGESEARCH_DEVICE": "cpu",
        "IMAGESEARCH_WEIGHTS": str(tmp_path / "weights.pth"),
        "WEB_PROCESSES": str(processes),
    }
    command = ["gunicorn", "--config", "imagesearch/gunicorn_conf.py", "--bind", "127.0.0.1:0", "imagesearch.asgi"]
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        server = subprocess.Popen([sys.executable, "-m", *command], cwd=ROOT, env=environment, stderr=stderr)

    def told() -> list[str]:
        return re.findall(r"Loading the model .*, threads: (\d+)", log.read_text())

    try:
        eventually(lambda: len(told()) == processes, "every process loads the model")
        assert told() == [str(threads)] * processes
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
