"""A machine's copies of generations that lie in a store: how many bytes they take, and how they leave.

A copy from which an index is loaded stays, whichever process has loaded it: see OpenFile. Names of companies are given
again, so each copy notes which company it has served.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from search.engine import durable
from search.engine.storage.generations import PublishLockTaken, discard, publish_lock
from search.engine.storage.layout import (
    FAISS_INDEX,
    METADATA,
    SERVES,
    complete_generations,
    fetch_lock,
    fetched_drafts,
    generation_directory,
    generations_of_all,
    graves,
    home,
)


@dataclass(frozen=True, slots=True)
class Copy:
    directory: Path  # that of the index
    name: str  # of the generation
    bytes: int
    used_at: float  # seconds since 1970

    @property
    def path(self) -> Path:
        return generation_directory(self.directory, self.name)


def copies(parent: Path) -> list[Copy]:
    """Return the complete copies of all indexes in parent, the least recently used first."""
    found = [copy for directory in directories(parent) for copy in copies_of(directory)]
    return sorted(found, key=lambda copy: copy.used_at)


def copies_of(directory: Path) -> Iterator[Copy]:
    """Yield the complete copies of the index in directory, oldest first."""
    for path in complete_generations(directory):
        with contextlib.suppress(FileNotFoundError):  # somebody has removed it
            yield Copy(directory, path.name, _bytes(path), path.stat().st_mtime)


def directories(parent: Path) -> Iterator[Path]:
    """Yield the directories in parent of which a copy may be here."""
    with contextlib.suppress(FileNotFoundError):
        for entry in generations_of_all(parent).iterdir():
            if not entry.name.startswith("."):
                yield parent / entry.name


def note_use(copy: Path) -> None:
    """Note that a copy is used now."""
    with contextlib.suppress(OSError):
        os.utime(copy)


def note_serving(copy: Path, company: str) -> None:
    """Note that a copy serves a company now. company: a text that no other company ever has."""
    with contextlib.suppress(OSError):
        durable.replace(copy / SERVES, company.encode())


def served(copy: Path) -> str:
    """Return the company that a copy serves, or served last; "" where it has not served."""
    try:
        return (copy / SERVES).read_text(errors="replace")
    except OSError:
        return ""


def served_at(copy: Path) -> float:
    """Return when a copy began to serve last, in seconds since 1970, 0 where it has not."""
    try:
        return (copy / SERVES).stat().st_mtime
    except OSError:
        return 0.0


def remove_unused(copy: Copy) -> bool:
    """Remove a copy, unless an index is loaded from it or published into its directory; tell whether it is gone."""
    try:
        with publish_lock(copy.directory, wait_seconds=0), _held_alone(copy.path) as unused:
            if unused:
                discard(copy.path)
            return unused
    except PublishLockTaken:
        return False


@contextlib.contextmanager
def fetching(directory: Path) -> Iterator[None]:
    """Let nobody else of this machine fetch a generation of the index in directory until the end of the block."""
    home(directory).mkdir(parents=True, exist_ok=True)
    with FileLock(fetch_lock(directory), poll_interval=0.1):
        yield


def drop_leftovers(directory: Path) -> None:
    """Remove what killed processes have left of copies of the index in directory. Call it while fetching()."""
    for left in [*fetched_drafts(directory), *graves(home(directory))]:
        shutil.rmtree(left, ignore_errors=True)


def drop_all_leftovers(parent: Path) -> None:
    """Do so for the indexes in parent of which nothing is being fetched."""
    for directory in directories(parent):
        if any(fetched_drafts(directory)) or any(graves(home(directory))):
            with contextlib.suppress(Timeout), FileLock(fetch_lock(directory), timeout=0):
                drop_leftovers(directory)


def bytes_under_way(parent: Path) -> int:
    """Return how many bytes have been fetched of copies that are not complete."""
    return sum(_bytes(draft) for directory in directories(parent) for draft in fetched_drafts(directory))


def _bytes(directory: Path) -> int:
    size = 0
    with contextlib.suppress(FileNotFoundError):
        for file in directory.iterdir():
            size += file.lstat().st_size if file.name != SERVES else 0
    return size


@contextlib.contextmanager
def _held_alone(copy: Path) -> Iterator[bool]:
    """Yield whether nobody has the files open that stay open while an index is loaded; nobody opens them meanwhile."""
    with contextlib.ExitStack() as opened:
        try:
            for name in (FAISS_INDEX, METADATA):
                file = opened.enter_context(durable.open_plain(copy / name))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:  # damaged, or gone
            pass
        yield True
