"""The files in which prometheus_client keeps what a process counts, so that /metrics can add the processes up.

The library maps files that have a length but no blocks: on a full disk, the first number written into one kills the
process (SIGBUS). Here the blocks are written before they are mapped; where there are none, the process counts in its
own memory and says so.
"""

import logging
import mmap
import os
from pathlib import Path
from typing import Any

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

logger = logging.getLogger(__name__)

_FIRST_BYTES = 1 << 16
_ENTRY_BYTES = 64  # of an entry, beside twice its key


class AllocatedDict(MmapedDict):
    """A MmapedDict whose file has its blocks, or that has no file. Not thread safe: the library holds its lock."""

    _f: Any  # the file, or None

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        try:
            _allocate(Path(filename), _FIRST_BYTES)
            super().__init__(filename, read_mode)
        except OSError as error:
            _say(error)
            Path(filename).unlink(missing_ok=True)  # a file of no length would break /metrics
            self._f, self._fname, self._positions = None, filename, {}
            self._capacity, self._used = _FIRST_BYTES, 8
            self._m = mmap.mmap(-1, self._capacity)

    def _init_value(self, key: str) -> None:
        while self._used + _ENTRY_BYTES + 2 * len(key.encode()) > self._capacity:
            self._grow()
        super()._init_value(key)

    def _grow(self) -> None:
        before, self._capacity = self._m, 2 * self._capacity
        if self._f is not None:
            try:
                _allocate(Path(self._fname), self._capacity)
                self._m = mmap.mmap(self._f.fileno(), self._capacity)
                return
            except OSError as error:
                _say(error)
                self._f.close()  # what was counted so far stays in the file
                self._f = None
        self._m = mmap.mmap(-1, self._capacity)
        self._m[: len(before)] = before[:]

    def close(self) -> None:
        self._m.close()
        if self._f is not None:
            self._f.close()


def _allocate(file: Path, size: int) -> None:
    """Give a file so many bytes, all of them on the disk. Raises OSError and leaves the file as long as it was."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        try:
            written = before
            while written < size:
                written += os.pwrite(descriptor, bytes(size - written), written)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def _say(error: OSError) -> None:
    logger.error("What this process counts from now on is missing from /metrics: %s", error)


def use_allocated_files() -> None:
    """Have the library use them, in this process, for metrics that are made from now on."""
    library: Any = values
    library.MmapedDict = AllocatedDict
