"""How a process that is asked to stop comes to an end."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequested(Exception):
    """The process was asked to stop; the build continues elsewhere, or later."""


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set; the handlers in place before are called as well, save Python's own.

    Outside the main thread, where signals cannot be handled, it is never set.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():  # second signal: stop immediately
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        stop.set()
        earlier = before[signal.Signals(number)]
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
