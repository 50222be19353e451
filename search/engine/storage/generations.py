"""The generations of an index: which one is published, which came before, and how they go."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from search.engine import durable
from search.engine.errors import IndexCorrupt, IndexNotBuilt, IndexUnusable, PublishRefused
from search.engine.index.index import IndexInfo
from search.engine.storage.checksums import require_undamaged
from search.engine.storage.layout import (
    LOCK,
    NOT_WORTH_KEEPING,
    PARTS,
    complete_generations,
    drafts,
    generation_name,
    home,
    is_published_link,
    link_target,
    new_grave,
    new_link,
    publication_moment,
    resolve,
    unused_links,
)
from search.engine.storage.reading import load, read_info


@dataclass(frozen=True, slots=True)
class Generation:
    name: str
    published: bool  # it is the one that searches see
    info: IndexInfo


def generations(directory: Path) -> list[Generation]:
    """Return the generations of the index in directory, newest first, those that are damaged left out."""
    current = resolve(directory).name
    found = []
    for entry in reversed(complete_generations(directory)):
        with contextlib.suppress(IndexUnusable):  # a Flask directory, say, that was rebuilt because it was damaged
            found.append(Generation(entry.name, entry.name == current, read_info(entry)[0]))
    return found


def roll_back(
    directory: Path,
    generation: str | None = None,
    *,
    confirm: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Generation:
    """Publish an earlier generation again, by default the one before the published one; return it.

    The generations after it stay until the next publication. confirm: as for Draft.publish.
    Raises IndexNotBuilt where it is gone or there is none, IndexCorrupt where it is damaged, and PublishRefused.
    """
    current = resolve(directory)
    entry = _generation_before(directory, current) if generation is None else home(directory) / generation
    if entry not in complete_generations(directory):
        raise IndexNotBuilt(f"There is no generation {generation} of {directory.name} any more")
    try:
        load(entry)
        require_undamaged(entry)
    except IndexCorrupt as error:
        raise IndexCorrupt(f"The generation {entry.name} of {directory.name} is damaged: {error}") from error
    with publish_lock(directory), confirm():
        if resolve(directory) != current or entry not in complete_generations(directory):
            raise PublishRefused(f"Another index of {directory.name} was published meanwhile: try again")
        link(directory, entry)
    return Generation(entry.name, True, read_info(entry)[0])


def _generation_before(directory: Path, current: Path) -> Path:
    earlier = [entry for entry in complete_generations(directory) if entry.name < current.name]
    if current not in complete_generations(directory) or not earlier:
        raise IndexNotBuilt(
            f"{directory.name} has no earlier index to go back to: "
            "IMAGESEARCH_KEEP_GENERATIONS says how many are kept when another is published"
        )
    return earlier[-1]


def remove(directory: Path) -> None:
    """Remove the index in directory, and directory itself where nothing else lies in it."""
    if is_published_link(directory):
        erase(directory)
        return
    plain = directory.resolve()
    for name in PARTS:
        (plain / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else lies in it
        plain.rmdir()
    if directory.is_symlink() and not plain.exists():
        directory.unlink()


def erase(directory: Path) -> None:
    """Remove the index in directory, all its generations and unfinished builds; what a link leads to stays.

    Raises PublishRefused where directory holds something that is no part of an index, and OSError.
    """
    if not directory.is_symlink():
        require_index_or_nothing(directory)
    removed = new_grave(directory)
    removed.mkdir(parents=True)
    # Renamed as a whole, and before the link, because readers fall back on the newest generation that they find.
    with contextlib.suppress(FileNotFoundError):
        home(directory).rename(removed / "generations")
    if directory.is_symlink():
        directory.unlink()
    elif directory.exists():
        directory.rename(removed / "index")
    shutil.rmtree(removed)


def size_on_disk(directory: Path) -> int:
    """Return how many bytes the index in directory takes with all its generations and unfinished builds."""
    places = [home(directory)] if directory.is_symlink() else [home(directory), directory]
    size = 0
    for file in (file for place in places for file in place.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a build removed it meanwhile
            size += file.lstat().st_size
    return size


def require_index_or_nothing(directory: Path) -> None:
    """Refuse a directory in which anything but an index, whole or damaged, would be moved away and later deleted."""
    if is_published_link(directory) or not directory.exists():
        return
    if not directory.is_dir():
        raise PublishRefused(f"{directory} is a file: give another directory")
    for entry in directory.iterdir():
        if entry.name not in PARTS | NOT_WORTH_KEEPING:
            raise PublishRefused(
                f"{directory} holds {entry.name}, which is no part of an index: move it away or give another directory"
            )


@contextlib.contextmanager
def publish_lock(directory: Path) -> Iterator[None]:
    with FileLock(home(directory) / LOCK):
        yield


def link(directory: Path, generation: Path) -> None:
    """Point directory at generation. The link moves last: a reader sees the old index or the new one."""
    new = new_link(directory)
    new.symlink_to(link_target(directory, generation.name))
    if directory.is_dir() and not directory.is_symlink():
        # rename() cannot put a link over a directory. Until the link is there, resolve finds the new generation.
        directory.rename(home(directory) / generation_name(datetime.fromtimestamp(0, UTC)))
    new.replace(directory)
    durable.sync(directory.parent)


def rolled_back_from(directory: Path) -> list[Path]:
    """Return the generations after the published one; behind the next one they would pass for what was before it."""
    current, found = resolve(directory), complete_generations(directory)
    return [entry for entry in found if entry.name > current.name] if current in found else []


def next_name(directory: Path) -> str:
    """Return the name of a new generation, which sorts behind all others, also where a clock was put back."""
    moment = datetime.now(UTC)
    for newest in complete_generations(directory)[-1:]:
        with contextlib.suppress(ValueError):
            moment = max(moment, publication_moment(newest.name) + timedelta(microseconds=1))
    return generation_name(moment)


def drop_old_generations(directory: Path, *, keep: int) -> None:
    """Remove all but the published generation and the keep before it, and what killed writers left."""
    current = resolve(directory)
    earlier = [entry for entry in complete_generations(directory) if entry.name != current.name]
    for entry in earlier[: max(0, len(earlier) - keep)]:
        shutil.rmtree(entry, ignore_errors=True)
    for entry in unused_links(directory):
        entry.unlink()
    for entry in drafts(directory):
        with contextlib.suppress(Timeout), FileLock(entry / LOCK, timeout=0):
            shutil.rmtree(entry, ignore_errors=True)
