"""Files that outlast a crash, and files of others that are read without trusting them."""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

_BLOCK = 1 << 22


def sync(target: Path | IO[bytes]) -> None:
    """Return when what was written to a file, by its path or open, or into a directory is on the disk."""
    if not isinstance(target, Path):
        target.flush()
        os.fsync(target.fileno())
        return
    descriptor = os.open(target, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes) -> None:
    """Write a file whose content is on the disk then."""
    with path.open("wb") as file:
        file.write(content)
        sync(file)


def replace(path: Path, content: bytes) -> None:
    """Write a small file, whole for every reader: the old content or the new one."""
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        write(fresh, content)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    sync(path.parent)


def sha256(source: Path | IO[bytes], *, beat: Callable[[], None] = lambda: None) -> bytes:
    """Return the SHA-256 of a file, by its path or open, from its start, 32 bytes. beat is called now and then."""
    digest = hashlib.sha256()
    with source.open("rb", buffering=0) if isinstance(source, Path) else nullcontext(source) as file:
        file.seek(0)
        while block := file.read(_BLOCK):
            digest.update(block)
            beat()
    return digest.digest()


def open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading, without a buffer. Raises OSError, also for what is none, such as a pipe."""
    file = open(path, "rb", buffering=0, opener=_open_at_once)  # noqa: SIM115  # the caller closes it
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "It is not a plain file", str(path))
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # else a pipe is waited for until somebody writes into it


class BoundedReads:
    """A file that refuses to be read in huge pieces, which hostile headers make tarfile and zipfile ask for."""

    def __init__(self, file: IO[bytes], *, limit: int, refuse: Callable[[], Exception]) -> None:
        """limit: bytes that a piece has at most. refuse: makes the error that is raised for a larger one."""
        self._file, self._limit, self._refuse = file, limit, refuse

    def read(self, size: int | None = None) -> bytes:
        """Return size bytes, or all the rest, as an open file does."""
        if size is not None and not 0 <= size <= self._limit:
            raise self._refuse()
        content = self._file.read(self._limit + 1 if size is None else size)
        if len(content) > self._limit:
            raise self._refuse()
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
