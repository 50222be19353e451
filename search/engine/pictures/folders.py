"""A company's pictures, wherever they lie: in a folder on a disk, or below a prefix of an object store.

Both keep the same rules (paths.py). What a store cannot do a disk's folder may: links, and files that are no pictures
of ours but in the way.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from search.engine.objects import open_store
from search.engine.pictures import folder as on_disk
from search.engine.pictures.folder import ImageFile, Look, SkippedFile, modified_ns
from search.engine.pictures.shelf import Shelf, open_picture
from search.engine.pictures.stored import StoredFolder


class StagedPicture(Protocol):
    """A picture that has no place yet; builds pass over it."""

    @property
    def file(self) -> BinaryIO:
        """The file, open for writing and reading."""

    def sync(self) -> None:
        """Have what was written safe from a crash, as far as a picture without a place can be."""

    def place(self, path: str, *, replace: bool, durable: bool = False) -> bool:
        """Give the picture its path, at once for every reader, and return whether another had it.

        durable: so that a crash does not undo it. Raises PathRefused where another has the path and replace is false.
        """


class PictureShelf(Protocol):
    """A folder of pictures, open for changes. Its methods raise PathRefused where no picture can have a path, or
    something that is none has it; OSError; and StoreError.
    """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def stage(self) -> AbstractContextManager[StagedPicture]:
        """Yield a new file for a picture, which is gone at the end of the block unless it was placed."""

    def require(self, path: str) -> None:
        """Raise FileNotFoundError where there is no picture of this path."""

    def size(self, path: str) -> int:
        """Return the bytes of the picture of path. Raises FileNotFoundError where there is none."""

    def holds(self, path: str, content: bytes) -> bool:
        """Return whether the picture of path can be read and has this content."""

    def remove(self, path: str) -> None:
        """Remove the picture of path, safe from a crash. Raises FileNotFoundError where there is none."""


class PictureFolder(Protocol):
    """A company's pictures. str() of it tells people where they lie. Many threads may use it.

    Paths are relative to it, as paths.require_path wants them. Its methods raise OSError where there is nothing, or
    nothing that can be read, and StoreError where a store cannot tell: then nothing is known of the pictures.
    """

    def find(self) -> Iterator[ImageFile | SkippedFile]:
        """Yield what is named like a picture, sorted by path, in flat memory; see folder.find_images."""

    def other_types(self) -> str:
        """Return in words which files, that are not named like pictures, lie there; "" where there are none."""

    def exists(self) -> bool:
        """Return whether there is anything, be it an empty folder."""

    def create(self) -> None:
        """Make the folder, where folders are made. Raises FileExistsError where it exists."""

    def open(self, path: str, *, at_once: bool = True) -> BinaryIO:
        """Return the picture of path, open for reading, seekable, and never of two states.

        at_once: false where perhaps nothing of it is read. Raises OSError, also where something else than a file is
        there by now.
        """

    def look(self, file: BinaryIO) -> Look:
        """Return what a file that open() has returned is like now."""

    def missing(self, paths: Sequence[str]) -> int:
        """Return how many of the paths no picture has."""

    def shelf(self, *, make: bool = False) -> PictureShelf:
        """Return the folder, open for changes. make: it is made where it is missing."""


@dataclass(frozen=True, slots=True)
class DiskFolder:
    """A folder on a disk."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def find(self) -> Iterator[ImageFile | SkippedFile]:
        return on_disk.find_images(self.path)

    def other_types(self) -> str:
        return on_disk.other_types(self.path)

    def exists(self) -> bool:
        return self.path.is_dir()

    def create(self) -> None:
        self.path.mkdir(parents=True)

    def open(self, path: str, *, at_once: bool = True) -> BinaryIO:
        return open_picture(self.path, path)

    def look(self, file: BinaryIO) -> Look:
        found = os.fstat(file.fileno())
        version = f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        return Look(found.st_size, modified_ns(found), found.st_mtime_ns, version)

    def missing(self, paths: Sequence[str]) -> int:
        return sum(not _is_file(self.path / path) for path in paths)

    def shelf(self, *, make: bool = False) -> Shelf:
        return Shelf(self.path, make=make)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        return False


def stored_folder(url: str, *, endpoint: str, hurried: bool = False) -> PictureFolder:
    """Return the pictures below a prefix, s3://bucket/prefix. endpoint, hurried: of the store, see ObjectStore."""
    return StoredFolder(open_store(url.rstrip("/"), endpoint, hurried=hurried))


def as_folder(folder: Path | PictureFolder) -> PictureFolder:
    """Return the folder, of which a path may tell that it lies on a disk."""
    return DiskFolder(folder) if isinstance(folder, Path) else folder
