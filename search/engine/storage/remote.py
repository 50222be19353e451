"""Generations in an object store, below the name of their company; each function is given what lies there.

<generation>/<file>        as on a disk, see layout.py
<generation>/SHA256SUMS    uploaded last: a generation without it does not exist. It lists the files of an index that
                           has no such file of its own, too, so that all that is fetched is compared
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from search.engine import durable
from search.engine.damage import DamageNamed
from search.engine.errors import IndexCorrupt, IndexNotBuilt, IndexUnusable, StoreUnavailable
from search.engine.index.index import IndexInfo
from search.engine.objects import ObjectStore, StoredObject
from search.engine.storage import parts
from search.engine.storage.generations import Generation
from search.engine.storage.layout import FAISS_INDEX, FLAT_HEADER, INFO, PARTS, SUMS, fetched_draft
from search.engine.storage.reading import parse_info
from search.engine.storage.sums import parse_sums, read_sums, sums_content
from search.engine.vectors import DIMENSION

_PUBLISHED = ".published"
_CARD_BYTES = 1 << 20
_TRIES = 2  # to fetch an object whose checksum is another one
_INFOS = 10_000  # of a few hundred bytes


def upload(store: ObjectStore, directory: Path, name: str, *, beat: Callable[[], None] = lambda: None) -> None:
    """Make the files in directory the generation of this name; it exists when this returns, and not before.

    All that has arrived is compared with the checksums. beat is called now and then. Raises IndexCorrupt where a file
    is not what its checksum says, and StoreUnavailable.
    """
    recorded = read_sums(directory)
    names = sorted(recorded or {each for each in PARTS if (directory / each).exists()})
    with DamageNamed(directory):
        sizes = {each: (directory / each).stat().st_size for each in names if each != SUMS}
    sums = {each: _upload_one(store, directory / each, f"{name}/{each}", beat) for each in sizes}
    for each, recorded_sum in (recorded or {}).items():
        if sums[each] != recorded_sum:
            raise IndexCorrupt(f"{each} has changed since it was published")
    listed = (directory / SUMS).read_bytes() if recorded else sums_content(sums)
    store.write(f"{name}/{SUMS}", listed)
    verify(store, name, sizes | {SUMS: len(listed)})


def _upload_one(store: ObjectStore, file: Path, key: str, beat: Callable[[], None]) -> str:
    with DamageNamed(file):
        file.open("rb").close()
    return store.upload(file, key, beat=beat).hex()


def verify(store: ObjectStore, name: str, sizes: dict[str, int]) -> None:
    """Raise StoreUnavailable unless all these files of a generation, of so many bytes, are in the store."""
    there = {each.key.removeprefix(f"{name}/"): each.size for each in store.listing(name)}
    for file, size in sizes.items():
        if there.get(file) != size:
            raise StoreUnavailable(f"{store.url}/{name}/{file} was lost by the store, or cut short: try again")


def fetch(store: ObjectStore, name: str, target: Path, *, beat: Callable[[], None] = lambda: None) -> None:
    """Make target, where nothing is yet, a copy of a generation: complete, with every checksum compared, or not there.

    What a killed process has fetched is used. Call it under a lock of the machine's for this target. beat is called
    now and then. Raises IndexNotBuilt where there is no such generation, IndexCorrupt, naming the object, where it is
    damaged in the store, StoreUnavailable, and OSError.
    """
    draft = fetched_draft(target)
    draft.mkdir(parents=True, exist_ok=True)
    sums = _fetch_sums(store, name, draft, beat)
    for file in sorted(sums):
        _fetch_one(store, name, draft / file, sums[file], beat)
    durable.sync(draft)
    draft.rename(target)
    durable.sync(target.parent)


def _fetch_sums(store: ObjectStore, name: str, draft: Path, beat: Callable[[], None]) -> dict[str, str]:
    """Fetch what tells the checksums of all files, and return them."""
    listed = _read_sums(store, name)
    durable.write(draft / SUMS, sums_content(listed))
    if INFO in listed:
        _fetch_one(store, name, draft / INFO, listed[INFO], beat)
    return read_sums(draft) or {}


def _fetch_one(store: ObjectStore, name: str, file: Path, wanted: str, beat: Callable[[], None]) -> None:
    if file.exists() and durable.sha256(file, beat=beat).hex() == wanted:
        return
    for _ in range(_TRIES):
        try:
            arrived = store.download(f"{name}/{file.name}", file, beat=beat).hex()
        except FileNotFoundError as error:
            raise _missing(store, name, file.name) from error
        if arrived == wanted:
            durable.sync(file)
            return
    file.unlink()
    raise IndexCorrupt(f"{store.url}/{name}/{file.name} is damaged: restore it, or build the index again")


def _missing(store: ObjectStore, name: str, file: str) -> IndexUnusable:
    """Return what to say where an object is not there: with its whole generation, or alone."""
    if name in names(store):
        return IndexCorrupt(f"{store.url}/{name}/{file} is missing: restore it, or build the index again")
    return IndexNotBuilt(f"The index {name} is not in the store {store.url}")


def _read_sums(store: ObjectStore, name: str) -> dict[str, str]:
    key = f"{name}/{SUMS}"
    try:
        content = store.read(key, limit=_CARD_BYTES)
    except FileNotFoundError as error:
        raise IndexNotBuilt(f"The index {name} is not in the store {store.url}") from error
    with DamageNamed(Path(store.url, key)):
        return parse_sums(content)


@dataclass(frozen=True, slots=True)
class Stored:
    """A generation in the store, or what somebody has uploaded of one so far. Times are the store's."""

    name: str
    is_complete: bool
    touched_at: datetime  # when the last file arrived
    published_at: datetime | None  # since when it serves, or did at last; None: it never has


def look(store: ObjectStore) -> list[Stored]:
    """Return all generations, oldest first, and what is there of incomplete ones."""
    return [_stored(name, found) for name, found in _by_generation(store)]


def _by_generation(store: ObjectStore) -> Iterator[tuple[str, dict[str, StoredObject]]]:
    for name, objects in groupby(store.listing(), key=lambda each: each.key.partition("/")[0]):
        found = {each.key.partition("/")[2]: each for each in objects}
        if "" not in found and not name.startswith("."):
            yield name, found


def _stored(name: str, found: dict[str, StoredObject]) -> Stored:
    mark = found.get(_PUBLISHED)
    touched_at = max(each.modified_at for each in found.values())
    return Stored(name, SUMS in found, touched_at, mark.modified_at if mark else None)


def names(store: ObjectStore) -> list[str]:
    """Return the complete generations, newest first."""
    return [each.name for each in reversed(look(store)) if each.is_complete]


def note_published(store: ObjectStore, name: str) -> None:
    """Note that a generation serves from now on."""
    store.write(f"{name}/{_PUBLISHED}", b"")


def size(store: ObjectStore, name: str) -> int:
    """Return how many bytes a generation has, 0 where there is none."""
    return sum(each.size for each in store.listing(name))


def exists(store: ObjectStore, name: str) -> bool:
    try:
        store.stat(f"{name}/{SUMS}")
    except FileNotFoundError:
        return False
    return True


@lru_cache(maxsize=_INFOS)
def info(store: ObjectStore, name: str) -> IndexInfo:
    """Return what a generation says of itself, which never changes: the store is asked once.

    Raises IndexNotBuilt, IndexCorrupt and StoreUnavailable.
    """
    sums = _read_sums(store, name)
    try:
        count = (store.stat(f"{name}/{FAISS_INDEX}").size - FLAT_HEADER.size) // (4 * DIMENSION)
        said = IndexInfo(count)
        card = store.read(f"{name}/{INFO}", limit=_CARD_BYTES) if INFO in sums else None
    except FileNotFoundError as error:
        raise IndexCorrupt(f"A file of {store.url}/{name} is missing: restore it, or build the index again") from error
    if card is None:
        return said
    with DamageNamed(Path(store.url, name, INFO)):
        if hashlib.sha256(card).hexdigest() != sums[INFO]:
            raise ValueError("it has changed since it was published")
        found = parse_info(parts.parse_object(card), said)
        if found.total_images != count:
            raise ValueError(f"it says {found.total_images} vectors, {FAISS_INDEX} holds {count}")
        return found


def generations(store: ObjectStore, published: str | None) -> list[Generation]:
    """Return the complete generations, newest first, those left out whose info is damaged.

    published: the name of the one that serves.
    """
    found = []
    for name in names(store):
        with suppress(IndexUnusable):
            found.append(Generation(name, name == published, info(store, name)))
    return found


def remove(store: ObjectStore, name: str) -> None:
    """Remove a generation; from the first moment on it is none."""
    store.delete([f"{name}/{SUMS}"])
    store.delete([each.key for each in store.listing(name)])


def remove_all(store: ObjectStore, *, last: str) -> None:
    """Remove all that lies there, generations first. last: the object that goes when all others are gone."""
    for name in names(store):
        remove(store, name)
    store.delete([each.key for each in store.listing() if each.key != last])
    store.delete([last])


def served_last(store: ObjectStore) -> str | None:
    """Return the generation that began to serve last, of those that are there; None where none has ever served."""
    served = [(each.published_at, each.name) for each in look(store) if each.is_complete and each.published_at]
    return max(served)[1] if served else None


def collect(store: ObjectStore, *, named: Collection[str], now: datetime, grace: timedelta) -> list[str]:
    """Remove what killed processes have left, incomplete generations and those that never served; return the names.

    named: by a row. now: by the store's clock. grace: what is younger stays, because somebody may be about to publish.
    """
    left = [
        each.name
        for each in look(store)
        if not (each.is_complete and (each.published_at or each.name in named)) and each.touched_at < now - grace
    ]
    for name in left:
        remove(store, name)
    return left
