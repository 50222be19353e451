"""Which files of a folder are pictures, by their names; whether they can be decoded shows when they are opened."""

import os
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from search.engine.errors import PathRefused
from search.engine.pictures.paths import (
    NOT_UTF8,
    extension,
    has_allowed_extension,
    is_system_folder,
    is_utf8,
    require_path,
)

COUNTED = 100_000  # files of other types: enough to tell what lies there
_LATEST_NS = 2**63 - 1  # what an index holds of a time: the year 2262


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file with the name of a picture; nothing says yet that it can be decoded."""

    path: str  # posix, relative to the folder
    size: int  # bytes
    mtime_ns: int  # see modified_ns


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """Something that was left out, and why."""

    path: str  # printable: bytes that are not UTF-8 stand as \\xff
    reason: str


@dataclass(frozen=True, slots=True)
class Look:
    """What tells a picture's file from what becomes of it when somebody changes it."""

    size: int  # bytes
    mtime_ns: int  # as in ImageFile
    modified_ns: int  # when it was changed, as the disk or the store tells
    version: str  # another one as soon as the file is replaced or changed


def modified_ns(found: os.stat_result) -> int:
    """Return when a file was changed, in ns. A time that 64 bits cannot hold, however early, becomes the latest that
    they can: one that never proves a file unchanged, so that its content is compared.
    """
    return found.st_mtime_ns if abs(found.st_mtime_ns) < _LATEST_NS else _LATEST_NS


def find_images(folder: Path) -> Iterator[ImageFile | SkippedFile]:
    """Yield what lies below folder and is named like a picture, sorted by path.

    Hidden files and folders are ignored, and folders that systems keep beside pictures (see paths). Links to folders
    are never followed, links to files only within folder. Memory holds the names of the folders on the
    way, not of the whole tree.
    Raises FileNotFoundError (OSError) when folder itself cannot be read.
    """
    root = folder.resolve()
    pending = [""]
    while pending:
        path = pending.pop()
        if path and not path.endswith("/"):
            yield _examine(root, path)
        elif not is_utf8(path):
            yield _skipped(path, NOT_UTF8)
        else:
            try:
                pending += sorted(_children(root, path), reverse=True)
            except OSError as error:
                if not path:
                    raise
                yield _skipped(path, f"The folder cannot be read: {error.strerror}")


def other_types(folder: Path) -> str:
    """Return in words which files, that are not named like pictures, lie below folder; "" where there are none."""
    found: Counter[str] = Counter()
    pending = [folder]
    while pending and found.total() < COUNTED:
        with suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not _is_folder(entry):
                    found[extension(entry.name)] += not has_allowed_extension(entry.name)
                elif not is_system_folder(entry.name):
                    pending.append(Path(entry.path))
    return in_words(found)


def in_words(kinds: Counter[str]) -> str:
    """Return in words how many files there are of the most frequent types, by their extensions."""
    shown = {f".{kind}" if kind.isalnum() else "of no type": count for kind, count in kinds.most_common(5) if count}
    return ", ".join(f"{count} {kind}" for kind, count in shown.items())


def _children(root: Path, parent: str) -> Iterator[str]:
    """Yield the paths to look at, folders with a slash at the end, so that they sort as in full paths."""
    with os.scandir(root / parent) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                if not is_system_folder(entry.name):
                    yield f"{parent}{entry.name}/"
            elif has_allowed_extension(entry.name) or _is_link_to_folder(entry):
                yield f"{parent}{entry.name}"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False  # _examine tells why, where it is named like a picture


def _is_link_to_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and os.path.isdir(entry.path)  # noqa: PTH112, the others raise on circles


def _examine(root: Path, path: str) -> ImageFile | SkippedFile:
    if not is_utf8(path):
        return _skipped(path, NOT_UTF8)
    try:
        found = os.lstat(root / path)
        if stat.S_ISLNK(found.st_mode):
            target = (root / path).resolve(strict=True)
            if target.is_dir():
                return _skipped(path, "A link to a folder; these are not followed")
            if not target.is_relative_to(root):
                return _skipped(path, "A link to outside the folder")
            found = target.stat()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        return _skipped(path, f"The file cannot be read: {getattr(error, 'strerror', 'circular links')}")
    if not stat.S_ISREG(found.st_mode):
        return _skipped(path, "Not a regular file")
    try:
        require_path(path)
    except PathRefused as error:
        return _skipped(path, error.reason)
    return ImageFile(path, found.st_size, modified_ns(found))


def _skipped(path: str, reason: str) -> SkippedFile:
    return SkippedFile(os.fsencode(path).decode("utf-8", "backslashreplace"), reason)
