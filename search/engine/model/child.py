"""A process of our own that ends with us: when we are asked to end, and when we are killed."""

import os
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from search.engine.errors import LoadingStopped

_PROJECT = Path(__file__).resolve().parents[3]


class Ending:
    """Whether this process was asked to end; what waits here for a lock or for a child then stops waiting.

    The handler of a signal writes, in the thread that waits.
    """

    def __init__(self) -> None:
        self.asked = False
        self._child: subprocess.Popen[str] | None = None

    def ask(self) -> None:
        self.asked = True
        if self._child is not None:
            self._child.kill()

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """Hold a lock of the machine. Raises LoadingStopped and OSError."""
        lock = FileLock(path)
        try:
            lock.acquire(cancel_check=lambda: self.asked)
        except Timeout as error:
            raise LoadingStopped("The process was asked to end") from error
        try:
            yield
        finally:
            lock.release()

    def run(self, command: Sequence[str], *, seconds: float) -> tuple[int, str]:
        """Return the exit status of a command and what it printed; its standard error is ours.

        Raises LoadingStopped, and subprocess.TimeoutExpired after so many seconds.
        """
        reader, writer = os.pipe()  # never written to: it is closed when we end, whatever ends us
        try:
            # A session of its own: Ctrl-C comes to us, who end it.
            with subprocess.Popen(
                command, cwd=_PROJECT, stdin=reader, stdout=subprocess.PIPE, text=True, start_new_session=True
            ) as child:
                self._child = child
                try:
                    if self.asked:  # while it was started
                        child.kill()
                    printed, _ = child.communicate(timeout=seconds)
                except BaseException:
                    child.kill()
                    raise
                finally:
                    self._child = None
        finally:
            os.close(reader)
            os.close(writer)
        if self.asked:
            raise LoadingStopped("The process was asked to end")
        return child.returncode, printed.strip()


@contextmanager
def watch_for_end() -> Iterator[Ending]:
    """Yield what SIGTERM, SIGINT and SIGQUIT tell first; then the handlers in place before do as they would have.

    Outside the main thread, where signals cannot be handled, it is never asked.
    """
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)}
    deadly: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        ending.ask()
        earlier = before[signal.Signals(number)]
        if callable(earlier):
            earlier(number, frame)
        else:
            deadly.append(number)

    taken = [number for number, earlier in before.items() if earlier not in (signal.SIG_IGN, None)]
    for number in taken:
        signal.signal(number, handle)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, taken)  # a server keeps those that came before
    try:
        yield ending
    finally:
        for number in taken:
            if signal.getsignal(number) is handle:
                signal.signal(number, before[number])
        for each in deadly:
            signal.raise_signal(each)


def end_with_parent() -> None:
    """Have this process, a child, end at once when its parent does."""
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return  # started by hand

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
