"""A file that is read where it is asked for, and not mapped."""

import contextlib
import fcntl
import os
import weakref
from pathlib import Path

from search.engine import durable
from search.engine.errors import IndexCorrupt


class OpenFile:
    """A file that stays open while somebody reads it; threads share it.

    A file that is cut short under a mapping kills the process; here its readers are told. It holds a shared lock on the
    file: who removes copies of indexes spares those that are read.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError, also for what is no plain file."""
        self._name = path.name
        with durable.open_plain(path) as file:
            self._descriptor = os.dup(file.fileno())
        with contextlib.suppress(OSError):  # a file system without locks holds no such copies
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        weakref.finalize(self, os.close, self._descriptor)
        self.size = os.fstat(self._descriptor).st_size

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes from start to stop. Raises IndexCorrupt where they are not there."""
        content = bytearray(stop - start)
        self.fill(memoryview(content), start)
        return bytes(content)

    def fill(self, target: memoryview, place: int) -> None:
        """Fill target with the bytes from place on. Raises IndexCorrupt where they are not there."""
        while target:
            try:
                count = os.preadv(self._descriptor, [target], place)
            except OSError as error:
                raise IndexCorrupt(f"{self._name} cannot be read: {error.strerror}") from error
            if not count:
                raise IndexCorrupt(f"{self._name} ends before byte {place}")
            target, place = target[count:], place + count
