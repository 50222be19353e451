"""What `make run` leaves running: supervisord with our configuration, and scripts in the place of the service."""

import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.checkout import copy_code
from tests.support.processes import ROOT
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

LASTING = "exec sleep 1000"
NOBODY = 65534
SCRIPTS = {"web": ".venv/bin/gunicorn", "worker": ".venv/bin/python"}


class Run:
    """A supervisor on a terminal of its own."""

    def __init__(self, checkout: Path, *, user: int | None) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(checkout)
            # As after su: the terminal stays that of who logged in.
            as_user = ["setpriv", f"--reuid={user}", "--clear-groups"] if user is not None else []
            os.execvp("env", ["env", *as_user, sys.executable, "-m", "imagesearch.supervise"])
        self._output = b""
        self._end = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._end.is_set():
            if select.select([self._terminal], [], [], 0.05)[0]:
                with suppress(OSError):
                    self._output += os.read(self._terminal, 65536)

    @property
    def output(self) -> str:
        return self._output.decode()

    def starts(self, name: str) -> list[int]:
        """Return the ids of the processes that ran in the place of web or worker, in order."""
        return [int(pid) for pid in re.findall(rf"{name} started as (\d+)", self.output)]

    def press_ctrl_c(self) -> None:
        os.write(self._terminal, b"\x03")

    def close_terminal(self) -> None:
        self._end.set()
        self._reader.join()
        os.close(self._terminal)

    def has_ended(self) -> bool:
        return not is_alive(self.pid) and not any(map(is_alive, self.starts("web") + self.starts("worker")))

    def stop(self) -> None:
        self._end.set()
        self._reader.join()
        for pid in (self.pid, *self.starts("web"), *self.starts("worker")):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A checkout that everybody may read, unlike what lies below tmp_path."""
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield copy_code(Path(directory) / "checkout")


@pytest.fixture
def start(checkout: Path) -> Iterator[Callable[..., Run]]:
    """Return what starts the supervisor over scripts: start(web="exit 1", worker="exec sleep 1000")."""
    runs: list[Run] = []

    def started(*, user: int | None = None, awaited: tuple[str, ...] = tuple(SCRIPTS), **commands: str) -> Run:
        for name, path in SCRIPTS.items():
            script = checkout / path
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_text(f'#!/bin/sh\necho "{name} started as $$"\n{commands.get(name, LASTING)}\n')
            script.chmod(0o755)
        run = Run(checkout, user=user)
        runs.append(run)
        eventually(lambda: all(map(run.starts, awaited)) or not is_alive(run.pid), "all have started")
        assert is_alive(run.pid), run.output
        return run

    yield started
    for run in runs:
        run.stop()


@pytest.mark.parametrize(("killed", "other"), [("web", "worker"), ("worker", "web")])
def test_a_process_that_is_killed_is_started_again_and_the_other_goes_on(
    start: Callable[..., Run], killed: str, other: str
) -> None:
    run = start()
    os.kill(run.starts(killed)[0], signal.SIGKILL)
    eventually(lambda: len(run.starts(killed)) == 2, f"{killed} is started again")
    assert is_alive(run.starts(killed)[1])
    assert run.starts(other) == run.starts(other)[:1]
    assert is_alive(run.starts(other)[0])
    assert f"exited: {killed} (terminated by SIGKILL" in run.output


def test_a_process_that_ends_at_once_is_never_given_up_and_started_ever_more_seldom(start: Callable[..., Run]) -> None:
    run = start(web="exit 1", worker="exit 0")
    moments = []
    for number in range(2, 7):  # supervisord's own default gives up after the fourth
        eventually(lambda wanted=number: len(run.starts("web")) >= wanted, f"start {number}")
        moments.append(time.monotonic())
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses[-1] > pauses[0] + 1
    assert len(run.starts("worker")) >= 4


def test_a_read_only_machine_runs_no_worker(start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGESEARCH_READ_ONLY", "true")
    run = start(awaited=("web",))
    os.kill(run.starts("web")[0], signal.SIGKILL)
    eventually(lambda: len(run.starts("web")) == 2, "web is started again")
    assert run.starts("worker") == []


def test_ctrl_c_ends_everything(start: Callable[..., Run]) -> None:
    run = start()
    run.press_ctrl_c()
    eventually(run.has_ended, "all have ended", seconds=10)


def test_who_does_not_end_when_asked_is_killed_with_all_that_it_started(start: Callable[..., Run]) -> None:
    run = start(web="trap '' TERM; sleep 1000 & echo web started as $!; wait; wait")
    run.press_ctrl_c()
    eventually(run.has_ended, "all have ended", seconds=25)


def test_a_terminal_that_is_closed_ends_everything(start: Callable[..., Run]) -> None:
    run = start()
    run.close_terminal()
    eventually(run.has_ended, "all have ended", seconds=10)


def test_nothing_is_said_but_what_the_processes_say_and_nothing_listens(start: Callable[..., Run]) -> None:
    run = start()
    assert re.fullmatch(r"((web|worker) started as \d+\s*){2}", run.output)  # not a word of running as root
    opened = [str(link.readlink()) for link in Path(f"/proc/{run.pid}/fd").iterdir()]
    assert [name for name in opened if name.startswith("socket:")] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_after_su_the_terminal_of_who_logged_in_is_written_to(start: Callable[..., Run]) -> None:
    run = start(user=NOBODY)
    assert Path(f"/proc/{run.starts('web')[0]}").stat().st_uid == NOBODY


def test_output_without_a_name_is_written_to_as_under_systemd(start: Callable[..., Run], checkout: Path) -> None:
    start().close_terminal()
    journal, ours = socket.socketpair()
    process = subprocess.Popen([sys.executable, "-m", "imagesearch.supervise"], cwd=checkout, stdout=ours, stderr=ours)
    ours.close()
    journal.settimeout(20)
    said = b""
    try:
        while not (b"web started" in said and b"worker started" in said):
            said += journal.recv(4096)
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_the_units_of_systemd_start_what_make_run_starts() -> None:
    configuration = (ROOT / "imagesearch/supervisord.conf").read_text()
    for name in ("web", "worker"):
        unit = (ROOT / f"deploy/imagesearch-{name}.service").read_text()
        (started,) = re.findall(r"^ExecStart=/srv/imagesearch/(.+)$", unit, re.MULTILINE)
        assert re.search(rf"\[program:{name}\]\ncommand = {re.escape(started)}\n", configuration)
