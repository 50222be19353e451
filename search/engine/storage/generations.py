"""The generations of an index: which one is published, which came before, and how they go."""

import contextlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from search.engine import durable
from search.engine.damage import DamageNamed
from search.engine.errors import IndexCorrupt, IndexUnusable, PublishRefused
from search.engine.index.index import IndexInfo
from search.engine.storage import parts
from search.engine.storage.layout import (
    LOCK,
    NOT_WORTH_KEEPING,
    PARTS,
    company_card,
    complete_generations,
    drafts,
    generation_name,
    generations_of_all,
    graves,
    home,
    is_published_link,
    kept_changes,
    link_target,
    new_grave,
    new_link,
    prepared_links,
    publication_moment,
    workspace,
    workspaces,
)
from search.engine.storage.reading import has_index, read_info

_LONG_AGO = datetime.fromtimestamp(0, UTC)  # when a plain directory is taken to have been published
_OF_PLAIN_DIRECTORIES = generation_name(_LONG_AGO + timedelta(microseconds=1))  # theirs are lower than this
_ERASING_WAITS = 2.0  # seconds for a publication that is under way


@dataclass(frozen=True, slots=True)
class Generation:
    name: str
    published: bool  # it is the one that searches use
    info: IndexInfo

    @property
    def made_at(self) -> datetime | None:
        """When it was made, UTC; None if that was not recorded."""
        try:
            return datetime.fromisoformat(self.info.timestamp or "").astimezone(UTC)
        except (ValueError, OverflowError):  # in the first or the last hours that there are
            return None


def generations(directory: Path, published: str | None) -> list[Generation]:
    """Return the generations of the index in directory, newest first, those that are damaged left out.

    published: the name of the one that serves.
    """
    found = []
    for entry in reversed(complete_generations(directory)):
        with contextlib.suppress(IndexUnusable):  # a Flask directory, say, that was rebuilt because it was damaged
            found.append(Generation(entry.name, entry.name == published, read_info(entry)[0]))
    return found


def infos_of_all(parent: Path) -> Iterator[IndexInfo]:
    """Yield what all generations of all indexes in parent say of themselves, damaged ones left out."""
    homes = generations_of_all(parent)
    names = {entry.name for place in (parent, homes) if place.is_dir() for entry in place.iterdir()}
    for name in names:
        directory = parent / name
        for entry in [*complete_generations(directory), *([directory] if is_plain(directory) else ())]:
            with contextlib.suppress(IndexUnusable):
                yield read_info(entry)[0]


def is_there(directory: Path) -> bool:
    """Return whether there is such a directory. Raises IndexCorrupt where this user may not even look."""
    try:
        return directory.is_dir()
    except OSError as error:
        raise IndexCorrupt(f"{directory.name} cannot be read: {error.strerror}") from error


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
    with _removed_at_once(directory) as removed:
        if directory.is_symlink():
            directory.unlink()
        elif directory.exists():
            directory.rename(removed / "index")


def erase_leftovers(directory: Path) -> None:
    """Remove what belongs to an index that directory does not hold; directory itself stays. Raises OSError."""
    with _removed_at_once(directory):
        pass


@contextlib.contextmanager
def _removed_at_once(directory: Path) -> Iterator[Path]:
    """Yield a directory whose content is removed after the block; the generations of directory lie in it.

    Who sleeps while it publishes is not waited for without end: its generation goes, and its row refuses it.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(PublishLockTaken):
            held.enter_context(publish_lock(directory, wait_seconds=_ERASING_WAITS))
        removed = new_grave(generations_of_all(directory.parent))
        removed.mkdir()
        # Renamed as a whole, so that nobody finds half of it.
        home(directory).rename(removed / "generations")
        yield removed
    _empty_grave(removed)


def empty_graves(parent: Path) -> None:
    """Remove what a killed process has left of the indexes of parent that it removed. Raises OSError."""
    for left in graves(generations_of_all(parent)):
        _empty_grave(left)


def _empty_grave(removed: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # somebody else does it
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
        raise PublishRefused(f"{directory} is a file: choose another directory")
    for entry in directory.iterdir():
        if entry.name not in PARTS | NOT_WORTH_KEEPING:
            raise PublishRefused(
                f"{directory} contains {entry.name}, which is no index file: move it away or choose another directory"
            )


class PublishLockTaken(Exception):
    """Somebody else publishes an index into the directory."""


@contextlib.contextmanager
def publish_lock(directory: Path, *, wait_seconds: float = -1) -> Iterator[None]:
    """Let nobody else publish into directory until the end of the block.

    wait_seconds: how long to wait for somebody else, by default without end. Raises PublishLockTaken.
    """
    home(directory).mkdir(parents=True, exist_ok=True)
    lock = FileLock(home(directory) / LOCK)
    try:
        lock.acquire(timeout=wait_seconds)
    except Timeout as error:
        raise PublishLockTaken(f"An index is being published into {directory}") from error
    try:
        yield
    finally:
        lock.release()


def holds_any_index(directory: Path) -> bool:
    """Return whether anything is left of an index in directory, whole or damaged, published or not."""
    return bool(complete_generations(directory)) or has_index(directory) or is_published_link(directory)


def is_plain(directory: Path) -> bool:
    """Return whether directory is one of its own, as the Flask service leaves it, and no link."""
    return directory.is_dir() and not directory.is_symlink()


def prepare_link(directory: Path, name: str) -> None:
    """Make the link that link() puts in its place; one that a killed process left tells what is still to be done."""
    earlier = prepared_links(directory)
    new_link(directory).symlink_to(link_target(directory, name))
    for prepared in earlier:  # not before: one of them may be all that leads to an index
        prepared.unlink()


def is_link_prepared(directory: Path, name: str) -> bool:
    return any(prepared.readlink().name == name for prepared in prepared_links(directory))


def drop_prepared_links(directory: Path) -> None:
    for prepared in prepared_links(directory):
        prepared.unlink()


def link(directory: Path, name: str) -> None:
    """Point directory at a generation. The link moves last: a reader sees the old index or the new one.

    A plain directory becomes a generation, older than all others. Call it under publish_lock.
    """
    if not is_link_prepared(directory, name):
        prepare_link(directory, name)
    prepared = next(each for each in prepared_links(directory) if each.readlink().name == name)
    if is_plain(directory):
        # rename() cannot put a link over a directory. Until the link is there, resolve follows the prepared one.
        directory.rename(home(directory) / generation_name(_LONG_AGO))
    prepared.replace(directory)
    drop_prepared_links(directory)
    durable.sync(directory.parent)


def next_name(directory: Path, others: Iterable[str] = ()) -> str:
    """Return the name of a new generation, which sorts behind all others, also where a clock was put back.

    others: names of generations that are not on this disk.
    """
    moment = datetime.now(UTC)
    for name in {*others, *(entry.name for entry in complete_generations(directory)[-1:])}:
        with contextlib.suppress(ValueError, OverflowError):  # of another kind, or made by hand
            moment = max(moment, publication_moment(name) + timedelta(microseconds=1))
    return generation_name(moment)


def prune(directory: Path, published: str, *, before: str | None, keep: int, spared: Collection[str] = ()) -> None:
    """Remove all generations but the published one and the keep before it, and what killed writers left.

    before: the one that was published until now; None: a plain directory, or nothing. spared: names of generations that
    stay beside these. Call it under publish_lock.
    """
    names = [entry.name for entry in complete_generations(directory)]
    given_up, surplus = superfluous(names, published, before=before, keep=keep)
    for name in {*given_up, *surplus}.difference(spared):
        discard(home(directory) / name)
    drop_prepared_links(directory)
    for entry in drafts(directory):
        with contextlib.suppress(Timeout), FileLock(entry / LOCK, timeout=0):
            shutil.rmtree(entry, ignore_errors=True)
    for entry in graves(home(directory)):
        shutil.rmtree(entry, ignore_errors=True)


def superfluous(names: Iterable[str], published: str, *, before: str | None, keep: int) -> tuple[list[str], list[str]]:
    """Return which generations are given up, and which are more than the keep before the published one.

    before: as of prune(). Those between the two were given up when somebody went back, or their publication was cut
    short: they would pass for what was before.
    """
    earlier = sorted(name for name in names if name < published)
    given_up = [name for name in earlier if name > (before or _OF_PLAIN_DIRECTORIES)]
    kept = [name for name in earlier if name not in given_up]
    return given_up, kept[: max(0, len(kept) - keep)]


def drop_workspaces(directory: Path, *, but: str | None = None) -> None:
    """Remove what unfinished builds have left in directory, those of the owner but left out; see workspace.

    An owner with several workspaces has a hyphen, and a word for each, behind its name.
    """
    for entry in workspaces(directory):
        if entry.name.partition("-")[0] != but:
            shutil.rmtree(entry, ignore_errors=True)


def drop_workspace(directory: Path, owner: str) -> None:
    """Remove what unfinished builds of the owner have left in directory."""
    shutil.rmtree(workspace(directory, owner), ignore_errors=True)


def discard(generation: Path) -> None:
    """Remove a generation, at once for whoever looks for it."""
    removed = new_grave(generation.parent)
    with contextlib.suppress(FileNotFoundError):
        generation.rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def write_company_card(directory: Path, protection: dict[str, Any]) -> None:
    """Keep beside the index in directory what protects its company; see read_company_card. Raises OSError."""
    home(directory).mkdir(parents=True, exist_ok=True)
    durable.replace(company_card(directory), company_card_content(protection))


def company_card_content(protection: dict[str, Any]) -> bytes:
    return json.dumps({"version": 1, **protection}).encode()


def write_kept_changes(directory: Path, changes: dict[str, Any] | None) -> None:
    """Keep beside the index in directory which changes it lacks; None: it lacks none. Raises OSError."""
    if changes is None:
        kept_changes(directory).unlink(missing_ok=True)
        return
    home(directory).mkdir(parents=True, exist_ok=True)
    durable.replace(kept_changes(directory), json.dumps(changes).encode())


def read_kept_changes(directory: Path) -> dict[str, Any] | None:
    """Return what was kept there; None where nothing was. Raises IndexCorrupt."""
    path = kept_changes(directory)
    with DamageNamed(path):
        return parts.parse_object(parts.read(path)) if path.exists() else None


def has_company_card(directory: Path) -> bool:
    return company_card(directory).exists()


def read_company_card(directory: Path) -> dict[str, Any] | None:
    """Return what protected the company of the index in directory; None where nobody kept it.

    Raises IndexCorrupt where it cannot be read: then nobody knows what to protect.
    """
    path = company_card(directory)
    with DamageNamed(path):
        if not path.exists():
            return None
    card = parts.read_card(path)
    with DamageNamed(path):
        return parse_company_card(card)


def parse_company_card(content: bytes) -> dict[str, Any]:
    """Return what company_card_content() was given. Raises KeyError, ValueError and whatever else json does."""
    card = parts.parse_object(content)
    quota = card["daily_quota"]
    if type(card["active"]) is not bool or type(card["requires_api_key"]) is not bool:
        raise ValueError("active and requires_api_key are not true or false")
    if quota is not None and (type(quota) is not int or quota < 0):
        raise ValueError("daily_quota is no number")
    return card
