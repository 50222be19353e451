"""The one way onto the disk of a folder of pictures.

The folder is opened once, and what lies below it is reached by descriptors and through no link: whatever becomes of its
path meanwhile, or is put in the way, nothing lands or goes elsewhere. A picture is written into the hidden folder
.uploads, which builds pass over, and then gets its place at once: whoever reads the one before it keeps that whole.
"""

import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from search.engine.errors import PathRefused

_STAGING = ".uploads"
_ABANDONED_SECONDS = 3600
_IN_THE_WAY = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP}


class Shelf:
    """A folder of pictures, open. Paths are relative to it, as paths.require_path wants them.

    Its methods raise PathRefused where a link, or anything else that is no file, is in the way of a path; and OSError.
    """

    def __init__(self, folder: Path, *, make: bool = False) -> None:
        """make: the folder is made where it is missing. Raises OSError."""
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._folder)

    @contextmanager
    def stage(self) -> Iterator["Staged"]:
        """Yield a new file for a picture, which is removed at the end of the block unless it was placed.

        What killed processes left is removed here, after an hour; a lock on each file tells whose process lives.
        """
        staging, name, descriptor = self._new_staged()
        try:
            with open(descriptor, "w+b") as file:  # noqa: PTH123, a descriptor has no path
                _remove_abandoned(staging)
                yield Staged(self, file, staging, name)
        finally:
            with contextlib.suppress(OSError):  # it was placed
                os.unlink(name, dir_fd=staging)
            os.close(staging)
            with contextlib.suppress(OSError):  # another's file lies there
                os.rmdir(_STAGING, dir_fd=self._folder)

    def create(self, path: str) -> BinaryIO:
        """Return the new file of path, open for writing, in a folder that nobody reads yet."""
        with self._open_folder(path, make=True) as (folder, name):
            descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=folder)
        return open(descriptor, "wb")  # noqa: PTH123

    def require(self, path: str) -> None:
        """Raise FileNotFoundError where there is no file of this path."""
        with self._open_folder(path) as (folder, name):
            _require_file(name, folder)

    def size(self, path: str) -> int:
        """Return the bytes of the file of path. Raises FileNotFoundError where there is none."""
        with self._open_folder(path) as (folder, name):
            _require_file(name, folder)
            return os.stat(name, dir_fd=folder, follow_symlinks=False).st_size

    def open(self, path: str) -> BinaryIO:
        """Return the file of path, open for reading; what takes its place meanwhile is not followed or waited for."""
        with self._open_folder(path) as (folder, name):
            _require_file(name, folder)
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                raise FileExistsError(errno.EEXIST, "it is no file", name)
        return open(descriptor, "rb")  # noqa: PTH123

    def holds(self, path: str, content: bytes) -> bool:
        """Return whether the file of path can be read and has this content."""
        with contextlib.suppress(OSError, PathRefused), self.open(path) as file:
            return file.read(len(content) + 1) == content
        return False

    def remove(self, path: str) -> None:
        """Remove the file of path, safe from a crash. Raises FileNotFoundError where there is none."""
        with self._open_folder(path) as (folder, name):
            _require_file(name, folder)
            os.unlink(name, dir_fd=folder)
            os.fsync(folder)

    def _new_staged(self) -> tuple[int, str, int]:
        """Return the descriptor of .uploads, and the name and the locked descriptor of a new file in it."""
        name = secrets.token_hex(16)
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(_STAGING, dir_fd=self._folder)
            with contextlib.suppress(FileNotFoundError):  # another has just removed it, because it was empty
                staging = _open_directory(_STAGING, self._folder)
                try:
                    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=staging)
                except BaseException:
                    os.close(staging)
                    raise
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return staging, name, descriptor

    @contextmanager
    def _open_folder(self, path: str, *, make: bool = False, durable: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the descriptor of the folder that path lies in, made where it is missing, and the file's name."""
        *folders, name = parts = path.split("/")
        if ".." in parts:
            raise PathRefused(path, "The path leads out of the folder")
        current = os.dup(self._folder)
        try:
            for folder in folders:
                if make:
                    _make_directory(folder, current, durable=durable)
                below = _open_directory(folder, current)
                os.close(current)
                current = below
            yield current, name
        except OSError as error:
            if error.errno in _IN_THE_WAY:
                raise PathRefused(path, "A link, file or folder with that name is in the way") from error
            if error.errno == errno.ENAMETOOLONG:
                raise PathRefused(path, "The name is too long for this file system: shorten it") from error
            raise
        finally:
            os.close(current)


class Staged:
    """A picture that has no place yet. Made by Shelf.stage."""

    def __init__(self, shelf: Shelf, file: BinaryIO, staging: int, name: str) -> None:
        self.file = file  # open for writing and reading
        self._shelf, self._staging, self._name = shelf, staging, name

    def sync(self) -> None:
        """Have what was written on the disk, safe from a crash."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def place(self, path: str, *, replace: bool, durable: bool = False) -> bool:
        """Give the file its path, at once for every reader, and return whether another had it.

        durable: so that a crash does not undo it. Raises PathRefused where another has the path and replace is false.
        """
        self.file.flush()
        with self._shelf._open_folder(path, make=True, durable=durable) as (folder, name):
            there = _is_there(name, folder)
            if there and not replace:
                raise PathRefused(path, "A picture with that name already exists, and replacing was not requested")
            if replace or not self._link(name, folder):
                os.rename(self._name, name, src_dir_fd=self._staging, dst_dir_fd=folder)
            if durable:
                os.fsync(folder)
        return there

    def _link(self, name: str, folder: int) -> bool:
        """Give the file its name unless another has it since we looked; False on a file system without hard links."""
        try:
            os.link(self._name, name, src_dir_fd=self._staging, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            raise
        except OSError:
            return False
        return True


def open_picture(folder: Path, path: str) -> BinaryIO:
    """Return the picture of path below folder, open for reading; links are followed to files inside folder only.

    Raises OSError, also where something else than a file is there by now.
    """
    with Shelf(folder) as shelf:
        try:
            return shelf.open(path)
        except PathRefused:
            root, target = folder.resolve(), (folder / path).resolve(strict=True)
        if not target.is_relative_to(root):
            raise OSError(errno.ELOOP, "A link to outside the folder")
        try:
            return shelf.open(target.relative_to(root).as_posix())
        except PathRefused as error:
            raise OSError(errno.EINVAL, "Not a regular file") from error


def remove_tree(folder: Path) -> None:
    """Remove folder and all that lies in it, however deep: shutil.rmtree calls itself and opens a directory a level.

    A directory's own directories are moved up before it is removed, so that there are never more than two levels.
    Raises OSError.
    """
    root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _empty(root)
    finally:
        os.close(root)
    folder.rmdir()


def _empty(root: int) -> None:
    while names := os.listdir(root):
        for name in names:
            if not _is_directory(name, root):
                os.unlink(name, dir_fd=root)
                continue
            directory = _open_directory(name, root)
            try:
                _empty_into(root, directory)
            finally:
                os.close(directory)
            os.rmdir(name, dir_fd=root)


def _empty_into(root: int, directory: int) -> None:
    """Move the directories of directory into root, and remove its files."""
    for name in os.listdir(directory):
        if _is_directory(name, directory):
            os.rename(name, secrets.token_hex(16), src_dir_fd=directory, dst_dir_fd=root)
        else:
            os.unlink(name, dir_fd=directory)


def _is_directory(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _open_directory(name: str, parent: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)


def _make_directory(name: str, parent: int, *, durable: bool) -> None:
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return
    if durable:
        os.fsync(parent)


def _is_there(name: str, folder: int) -> bool:
    try:
        _require_file(name, folder)
    except FileNotFoundError:
        return False
    return True


def _require_file(name: str, folder: int) -> None:
    """Raise FileNotFoundError where nothing has this name, and FileExistsError where something else than a file has."""
    if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
        raise FileExistsError(errno.EEXIST, "it is no file", name)


def _remove_abandoned(staging: int) -> None:
    """Remove what killed processes left. Others work here at the same time, so that anything may vanish meanwhile."""
    with contextlib.suppress(OSError):
        for name in os.listdir(staging):
            with contextlib.suppress(OSError):
                looked_at = os.stat(name, dir_fd=staging, follow_symlinks=False)
                if stat.S_ISREG(looked_at.st_mode) and time.time() - looked_at.st_mtime > _ABANDONED_SECONDS:
                    _remove_unlocked(name, staging)


def _remove_unlocked(name: str, staging: int) -> None:
    """Remove a file, or raise BlockingIOError where a living process holds it."""
    descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=staging)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=staging)
    finally:
        os.close(descriptor)
