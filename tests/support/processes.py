"""Real processes of the service: management commands on a database and in directories of their own.

Importing everything takes seconds, so one process does it and is forked for every command. What it forks are processes
like any other: they can be stopped, killed and waited for.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import IO, Any

from search.engine.model.transform import Pixels
from search.engine.vectors import Vectors
from tests.support.fakes import FakeEmbedder, embeds_altered_copies
from tests.support.object_store import KEYS
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = 10**9  # batches
KILLED = -signal.SIGKILL

_PR_SET_PDEATHSIG = 1


class Launcher:
    """The process that is forked."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.processes"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def launch(self, order: dict[str, Any]) -> int:
        """Return the id of a process that carries out the order."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def stop(self) -> None:
        self._process.communicate()  # the end of its input ends it, and that ends what it has forked


class Process:
    """A management command that runs. Its model waits before each batch until it is let go on."""

    def __init__(self, desk: Path, launcher: Launcher, order: dict[str, Any], *, batches: int) -> None:
        """batches: how many the model embeds before it has to wait."""
        self._desk = desk
        desk.mkdir(parents=True)
        self.let(batches)
        self.pid = launcher.launch({**order, "desk": str(desk)})

    def let(self, batches: int) -> None:
        """Let the model embed so many batches, counted from the start."""
        fresh = self._desk / "allowed.new"
        fresh.write_text(str(batches))
        fresh.rename(self._desk / "allowed")

    def wait_for_batch(self, number: int) -> None:
        """Return when the model is about to embed this batch, the first being 1."""
        eventually(lambda: self.status is not None or _lines(self._desk / "reached") >= number, f"batch {number}")
        assert _lines(self._desk / "reached") >= number, self.output

    def wait_until_stopped(self) -> None:
        """Return when the process was stopped by stop_after."""
        eventually(lambda: self.status is not None or _lines(self._desk / "stopped"), "the process is stopped")
        assert self.status is None, self.output

    @property
    def embedded(self) -> int:
        """How many pictures the model has embedded."""
        file = self._desk / "embedded"
        return sum(map(int, file.read_text().split())) if file.exists() else 0

    @property
    def output(self) -> str:
        file = self._desk / "output"
        return file.read_text() if file.exists() else ""

    @property
    def status(self) -> int | None:
        """The exit status, negative for the signal that ended it; None while it runs."""
        file = self._desk / "status"
        return int(file.read_text()) if file.exists() else None

    def wait(self) -> int:
        """Return the exit status when the process has ended."""
        eventually(lambda: self.status is not None, f"process {self.pid} ends")
        assert self.status is not None
        return self.status

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        if self.status is None:
            self.send(signal.SIGKILL)
            self.wait()


@dataclass
class Site:
    """An installation: a database, directories and the processes that use them."""

    database_url: str
    directory: Path
    launcher: Launcher
    lease_seconds: int = 1
    unit_pictures: int = 5000
    store: str = ""  # of the indexes, if there is one: its URL and its endpoint
    endpoint: str = ""
    processes: list[Process] = field(default_factory=list)

    def manage(
        self,
        *arguments: str,
        batches: int = ENDLESS,
        die_after: str = "",
        stop_after: str = "",
        machine: str = "",
    ) -> Process:
        """Start a management command.

        machine: the name of the one that it runs on, by default one of its own: of the directory with its copies.
        die_after: "module:function", whose first return kills the process. stop_after: the same, and stops it until
        it gets SIGCONT.
        """
        order = {
            "die_after": die_after,
            "stop_after": stop_after,
            "arguments": arguments,
            "database_url": self.database_url,
            "embeddings": str(self.directory / "embeddings"),
            "media": str(self.directory / "media"),
            "lease_seconds": self.lease_seconds,
            "unit_pictures": self.unit_pictures,
            "store": self.store,
            "endpoint": self.endpoint,
            "replica": str(self.directory / machine) if machine else "",
        }
        desk = self.directory / "processes" / str(len(self.processes))
        process = Process(desk, self.launcher, order, batches=batches)
        self.processes.append(process)
        return process

    def worker(self, *arguments: str, batches: int = ENDLESS, stop_after: str = "") -> Process:
        arguments = ("build_worker", "--interval=0.05", "--no-startup-delay", *arguments)
        return self.manage(*arguments, batches=batches, stop_after=stop_after)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()


@contextlib.contextmanager
def database(url: str) -> Iterator[None]:
    """Make this process use another database."""
    import environ
    from django.contrib.contenttypes.models import ContentType
    from django.db import connections

    # The same options as settings.py gives.
    given = environ.Env.db_url_config(url)
    configured = {**connections.settings["default"], **given}
    if configured["ENGINE"].endswith("sqlite3"):
        configured["OPTIONS"] = {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            **given.get("OPTIONS", {}),
        }
    else:
        configured |= {"OPTIONS": {}, "CONN_HEALTH_CHECKS": True}
    before, connection = connections.settings["default"], connections["default"]
    connections.settings["default"] = configured
    connections["default"] = connections.create_connection("default")
    ContentType.objects.clear_cache()  # its ids are those of the database before
    try:
        yield
    finally:
        ContentType.objects.clear_cache()
        connections["default"].close()
        connections.settings["default"], connections["default"] = before, connection


class _PatientEmbedder(FakeEmbedder):
    """Waits before each batch until it may go on, and notes what it has embedded."""

    def __init__(self, desk: Path) -> None:
        super().__init__()
        self.pictures_a_run = 8
        self._desk = desk
        self._turns = threading.Condition()  # of a build's threads, which embed side by side
        self._tickets = count()
        self._batches = 0

    def embed(self, batch: Sequence[Pixels]) -> Vectors:
        if embeds_altered_copies():
            return super().embed(batch)
        ticket = next(self._tickets)
        with self._turns:
            self._turns.wait_for(lambda: self._batches == ticket)  # whoever comes first: else chunks pass each other
            _append(self._desk / "reached", "1")
            while int((self._desk / "allowed").read_text()) <= self._batches:
                time.sleep(0.005)
            vectors = super().embed(batch)
            _append(self._desk / "embedded", str(len(batch)))
            self._batches += 1
            self._turns.notify_all()
            return vectors


def _append(file: Path, line: str) -> None:
    with file.open("a") as opened:
        opened.write(f"{line}\n")


def _lines(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


# In the process that is forked ----------------------------------------------------------------------------------------


def _serve(orders: IO[str], answers: IO[str]) -> None:
    _import_everything()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for the watchers' statuses
    for line in orders:
        order = json.loads(line)
        reader, writer = os.pipe()
        if os.fork() == 0:
            _watch(order, writer)
        os.close(writer)
        with os.fdopen(reader) as pid:
            answers.write(pid.readline())
        answers.flush()


def _import_everything() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "imagesearch.settings"
    import django

    django.setup()
    import_module("imagesearch.urls")
    import_module("search.tasks")
    for command in ("build_embeddings", "build_worker", "create_api_key", "export_company", "import_company"):
        import_module(f"search.management.commands.{command}")


def _watch(order: dict[str, Any], writer: int) -> None:
    """Fork the process, tell its id, and note its status when it has ended."""
    _die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        _carry_out(order)
    os.write(writer, f"{pid}\n".encode())
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    desk = Path(order["desk"])
    (desk / "status.new").write_text(str(os.waitstatus_to_exitcode(status)))
    (desk / "status.new").rename(desk / "status")
    os._exit(0)


def _carry_out(order: dict[str, Any]) -> None:
    """Run a management command as manage.py does, and end."""
    status = 1
    try:
        _die_with_parent()
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        desk = Path(order["desk"])
        output = os.open(desk / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(output, stream)
        with _configured(order, desk):
            from django.core.management import execute_from_command_line

            execute_from_command_line(["manage.py", *order["arguments"]])
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@contextlib.contextmanager
def _configured(order: dict[str, Any], desk: Path) -> Iterator[None]:
    from django.conf import settings

    from search import runtime
    from search.engine.build import builder

    settings.INDEX_DIR = settings.EMBEDDINGS_DIR = Path(order["embeddings"])
    if order["store"]:
        os.environ.update(KEYS)
        settings.STORE, settings.STORE_ENDPOINT = order["store"], order["endpoint"]
        settings.INDEX_DIR = settings.REPLICA_DIR = Path(order["replica"] or desk / "replica")
    settings.MEDIA_ROOT = Path(order["media"])
    settings.BUILD_LEASE_SECONDS, settings.UNIT_PICTURES = order["lease_seconds"], order["unit_pictures"]
    if order["die_after"]:
        _after(order["die_after"], lambda: os.kill(os.getpid(), signal.SIGKILL))
    if order["stop_after"]:
        _after(order["stop_after"], lambda: _stop_once(desk))
    runtime.use(_PatientEmbedder(desk))
    builder._FLUSH_SECONDS = 0.0  # tests embed in milliseconds what takes a real model minutes
    with database(order["database_url"]):
        yield


def _after(place: str, act: Callable[[], None]) -> None:
    """Have a function, "module:function", act before it returns."""
    module, _, function = place.partition(":")
    *path, name = function.split(".")
    owner: Any = import_module(module)
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, name)

    def acting(*args: Any, **options: Any) -> Any:
        result = real(*args, **options)
        act()
        return result

    setattr(owner, name, acting)


def _stop_once(desk: Path) -> None:
    if not _lines(desk / "stopped"):
        _append(desk / "stopped", "1")
        os.kill(os.getpid(), signal.SIGSTOP)


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):  # elsewhere than on Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def make_template(url: str) -> None:
    """Lay out the tables in an empty database."""
    from django.core.management import call_command

    with database(url):
        call_command("migrate", verbosity=0)


def copy_sqlite(template: Path, target: Path) -> str:
    """Copy a database that nobody uses; return the copy's URL."""
    shutil.copy(template, target)
    target.chmod(0o600)  # as the service makes it
    return f"sqlite:///{target}"


if __name__ == "__main__":
    _serve(sys.stdin, os.fdopen(os.dup(1), "w"))
