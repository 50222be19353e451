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
