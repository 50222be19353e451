"""How many pictures are decoded at a time: decoding takes memory and time by the pixel."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from filelock import BaseFileLock, Timeout

from search.engine.errors import DecoderBusy

ORDINARY_PIXELS = 30_000_000  # most cameras' and phones' pictures; what has more is large
_LARGE_SECONDS = 20  # that a large picture waits for another process's


class Gate(Protocol):
    def pass_through(self, *, pixels: int, decoded: int, limit: int) -> AbstractContextManager[None]:
        """Wait until a picture may be decoded.

        decoded: its pixels in memory, fewer where a JPEG is scaled down on the way. limit: what one picture may have.
        """


class PixelBudget:
    """Lets threads in while the pixels that they take together stay within a limit; whoever comes first waits first."""

    def __init__(self) -> None:
        self._turnstile = threading.Lock()
        self._changed = threading.Condition()
        self._taken = 0

    @contextmanager
    def pass_through(self, *, pixels: int, decoded: int, limit: int) -> Iterator[None]:
        with self._turnstile, self._changed:
            self._changed.wait_for(lambda: self._taken + decoded <= limit)
            self._taken += decoded
        try:
            yield
        finally:
            with self._changed:
                self._taken -= decoded
                self._changed.notify()


ONE_LARGE = PixelBudget()  # pictures side by side take no more memory than the largest that is allowed


class Lanes:
    """For requests: large pictures never keep ordinary ones waiting.

    Ordinary ones take ORDINARY_PIXELS together. Of the large ones a single one is decoded at a time, in all processes
    that share the lock, and another waits; a third raises DecoderBusy.
    """

    def __init__(self, lock: BaseFileLock | None) -> None:
        """lock: of the machine, not thread-local; None: this process is alone."""
        self._ordinary = PixelBudget()
        self._large = threading.Lock()
        self._places = threading.BoundedSemaphore(2)
        self._lock = lock

    @contextmanager
    def pass_through(self, *, pixels: int, decoded: int, limit: int) -> Iterator[None]:
        if pixels <= ORDINARY_PIXELS:
            with self._ordinary.pass_through(pixels=pixels, decoded=decoded, limit=ORDINARY_PIXELS):
                yield
        elif not self._places.acquire(blocking=False):
            raise DecoderBusy
        else:
            try:
                with self._large, self._locked():
                    yield
            finally:
                self._places.release()

    def _locked(self) -> AbstractContextManager[object]:
        if self._lock is None:
            return nullcontext()
        try:
            return self._lock.acquire(timeout=_LARGE_SECONDS)
        except Timeout as error:
            raise DecoderBusy from error
