"""A company's pictures in an object store.

A picture is one object and is written by one request, so that there is never half of one. What other programs put there
under keys that no picture can have is passed over by name.
"""

import errno
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from search.engine.errors import ObjectChanged, PathRefused, StoreRefused, StoreUnsuitable
from search.engine.objects import ObjectStore, StoredObject
from search.engine.pictures.folder import COUNTED, ImageFile, Look, SkippedFile, in_words
from search.engine.pictures.paths import (
    CONTROL,
    extension,
    has_allowed_extension,
    has_control_characters,
    is_system_folder,
    require_path,
)

MAX_BYTES = 1 << 30  # of a picture: more is not fetched
_IN_MEMORY = 32 << 20  # of an open picture; the rest of a larger one lies in a temporary file
_MAX_KEY_BYTES = 1024  # in every store
_LOOKS_AT_ONCE = 16
_ATTEMPTS = 3  # at a large picture that others replace while it is fetched
_SECOND_NS = 10**9


class StoredFolder:
    """What lies below a prefix of an object store: a PictureFolder, and its shelf."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __str__(self) -> str:
        return self._store.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def find(self) -> Iterator[ImageFile | SkippedFile]:
        before = ""
        for found in self._listing():
            if not has_allowed_extension(found.key):
                continue
            if found.key > before:
                yield _examine(found)
                before = found.key
            elif found.size:  # else what a console makes for a folder, whose slash the client leaves out
                # Builds walk through the index before beside it.
                raise StoreUnsuitable(
                    f"The store {self} lists {found.key!r} after {before!r}: use one that lists in order"
                )

    def other_types(self) -> str:
        kinds = (extension(found.key) for found in self._listing() if not has_allowed_extension(found.key))
        return in_words(Counter(islice(kinds, COUNTED)))

    def exists(self) -> bool:
        return any(True for _ in self._store.listing())

    def create(self) -> None:
        """Do nothing: a prefix is there with its first object."""

    def open(self, path: str, *, at_once: bool = True) -> BinaryIO:
        try:
            _require_key(path)
        except PathRefused as error:
            raise OSError(errno.EINVAL, error.reason, path) from error
        with _named(path):
            found = None if at_once else self._store.stat(path)
            return cast(BinaryIO, _StoredFile(self._store, path, found))

    def look(self, file: BinaryIO) -> Look:
        found = cast(_StoredFile, file).found
        version = f"{found.etag} {found.size} {_mtime_ns(found)}"
        return Look(found.size, _mtime_ns(found), int(found.modified_at.timestamp()) * _SECOND_NS, version)

    def missing(self, paths: Sequence[str]) -> int:
        with ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="look") as threads:
            return sum(not there for there in threads.map(self._is_there, paths))

    def shelf(self, *, make: bool = False) -> "StoredFolder":
        return self

    # The shelf

    @contextmanager
    def stage(self) -> Iterator["StagedObject"]:
        with SpooledTemporaryFile(_IN_MEMORY) as file:
            yield StagedObject(self._store, cast(BinaryIO, file))

    def require(self, path: str) -> None:
        self.size(path)

    def size(self, path: str) -> int:
        _require_key(path)
        with _named(path):
            return self._store.stat(path).size

    def holds(self, path: str, content: bytes) -> bool:
        with suppress(OSError), self.open(path, at_once=False) as file:
            return self.look(file).size == len(content) and file.read() == content
        return False

    def remove(self, path: str) -> None:
        self.require(path)
        with _writing(path):
            self._store.delete([path])

    def _is_there(self, path: str) -> bool:
        with suppress(OSError, PathRefused):
            self.require(path)
            return True
        return False

    def _listing(self) -> Iterator[StoredObject]:
        """Yield what is not hidden and does not lie in a folder of a system's own."""
        try:
            for found in self._store.listing():
                *folders, name = found.key.split("/")
                if not any(map(_is_hidden, (*folders, name))) and not any(map(is_system_folder, folders)):
                    yield found
        except StoreRefused as error:
            raise StoreUnsuitable(str(error)) from error


class StagedObject:
    """A picture that has no place yet: nothing of it is in the store."""

    def __init__(self, store: ObjectStore, file: BinaryIO) -> None:
        self.file = file
        self._store = store

    def sync(self) -> None:
        """Do nothing: what has no place outlasts no crash."""

    def place(self, path: str, *, replace: bool, durable: bool = False) -> bool:
        _require_key(path)
        with _named(path):
            there = self._is_there(path)
            if there and not replace:
                raise _taken(path)
            self._require_short(path)
            self.file.seek(0)
            try:
                with _writing(path):
                    self._store.write(path, self.file.read(), only_new=not replace)
            except FileExistsError as error:
                raise _taken(path) from error
        return there

    def _require_short(self, path: str) -> None:
        folder = self._store.url.removeprefix("s3://").partition("/")[2]
        if len(f"{folder}/{path}".encode()) > _MAX_KEY_BYTES:
            raise PathRefused(path, f"The path is longer than {_MAX_KEY_BYTES} bytes with its folder: shorten it")

    def _is_there(self, path: str) -> bool:
        try:
            self._store.stat(path)
        except FileNotFoundError:
            return False
        return True


class _StoredFile(io.BufferedIOBase):
    """An object as it was when it was opened. It is fetched whole: at once, or, if it is known, with the first read."""

    def __init__(self, store: ObjectStore, key: str, found: StoredObject | None = None) -> None:
        self._store = store
        self._content: Any = None
        self._position = 0  # until there is a content
        self.found = found or self._fetch_newest(key)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if self._content is None:
            self._fetch(self.found.key, etag=self.found.etag)
        return bytes(self._content.read(-1 if size is None else size))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if self._content is not None:
            return int(self._content.seek(offset, whence))
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.found.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position if self._content is None else int(self._content.tell())

    def close(self) -> None:
        if self._content is not None:
            self._content.close()
        super().close()

    def _fetch_newest(self, key: str) -> StoredObject:
        for _ in range(_ATTEMPTS - 1):
            try:
                return self._fetch(key)
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise
        return self._fetch(key)

    def _fetch(self, key: str, *, etag: str = "") -> StoredObject:
        content = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115, close() closes it
        try:
            with _named(key):
                found = self._store.fetch(key, cast(BinaryIO, content), limit=MAX_BYTES, etag=etag)
        except BaseException as error:
            content.close()
            if isinstance(error, ValueError):
                raise OSError(errno.EFBIG, f"It has more than {MAX_BYTES >> 20} MB", key) from error
            raise
        content.seek(self._position)
        self._content = content
        return found


def _examine(found: StoredObject) -> ImageFile | SkippedFile:
    try:
        _require_key(found.key)
    except PathRefused as error:
        return SkippedFile(found.key, error.reason)
    return ImageFile(found.key, found.size, _mtime_ns(found))


def _require_key(path: str) -> None:
    """Raise PathRefused where no object below a prefix can have this path."""
    require_path(path)
    if has_control_characters(path):
        raise PathRefused(path, CONTROL)


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def _mtime_ns(found: StoredObject) -> int:
    """Return when an object was written, in seconds, as all stores tell in listings and alone; below the second stands
    what its etag makes: one replaced in the same second by one of the same size is another."""
    tag = hashlib.blake2b(found.etag.strip('"').encode(), digest_size=8).digest()
    return int(found.modified_at.timestamp()) * _SECOND_NS + int.from_bytes(tag) % _SECOND_NS


def _taken(path: str) -> PathRefused:
    return PathRefused(path, "A picture with that name already exists, and replacing was not requested")


@contextmanager
def _named(path: str) -> Iterator[None]:
    """Raise what is wrong with one object as that of a file; that the store is away is another matter."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
    except ObjectChanged as error:
        raise OSError(errno.ESTALE, "It was replaced while it was read", path) from error
    except StoreRefused as error:  # which does not pass: whoever waits for the store would wait for ever
        raise StoreUnsuitable(
            f"{path} is refused. {error}; it may lie in an archive: restore it, or move it out of the folder"
        ) from error


@contextmanager
def _writing(path: str) -> Iterator[None]:
    """Raise that the store may not be written to as that of a folder."""
    try:
        yield
    except StoreRefused as error:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path) from error
