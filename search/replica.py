"""This machine's copies of generations that lie in the store.

A copy is complete and compared with its checksums, or not there. Each process fetches on threads of its own, one for a
generation, and one process of the machine at a time; a fetch goes on when those who have waited for it give up. The
least recently used copies leave, so that all together keep within IMAGESEARCH_REPLICA_BYTES.
"""

import errno
import logging
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings
from filelock import FileLock

from search import runtime, stores
from search.engine import storage
from search.engine.errors import (
    EngineError,
    IndexCorrupt,
    IndexOnItsWay,
    IndexUnusable,
    NotEnoughSpace,
    StoreUnavailable,
)
from search.engine.index.index import IndexInfo
from search.engine.objects import ObjectStore
from search.engine.storage import copies, remote
from search.monitoring import metrics
from tenants.models import Company

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0  # that a request waits for a copy

_WAITING_REQUESTS = max(1, settings.WEB_THREADS // 2)  # at a time: the other threads serve other companies
# A failure is believed so long before the next try.
_BELIEVED_SECONDS: dict[type[Exception], float] = {StoreUnavailable: 5.0, IndexCorrupt: 300.0}
_BELIEVED_ELSE = 30.0
_BEAT_SECONDS = 1.0
_NO_SPACE = "The disk has no room for a copy of this index: free some, or set another IMAGESEARCH_REPLICA_DIR"
_THROWN_AWAY_SECONDS = 600.0  # a copy that is damaged again after less is not fetched again: the disk is to blame


@dataclass(slots=True)
class _Fetch:
    """One fetch of this process. over is set last, by its thread; who has waited for it reads the rest."""

    over: threading.Event = field(default_factory=threading.Event)
    error: EngineError | None = None
    ended_at: float = 0.0

    @property
    def is_over_for_good(self) -> bool:
        """Whether the next who asks begins anew."""
        if self.error is None:
            return self.over.is_set()
        return time.monotonic() - self.ended_at > _BELIEVED_SECONDS.get(type(self.error), _BELIEVED_ELSE)


_fetches: dict[Path, _Fetch] = {}  # by the directory of the copy
_thrown_away: dict[Path, float] = {}  # when, by the directory of the copy
_lock = threading.Lock()  # guards both tables, and nothing slow happens under it
_places = threading.Semaphore(_WAITING_REQUESTS)


def at_hand(
    company: Company,
    generation: str,
    *,
    wait_seconds: float | None,
    beat: Callable[[], None] = lambda: None,
) -> Path:
    """Return the directory of the machine's copy of a generation, fetched if need be.

    wait_seconds: for how long the caller waits, of whom only so many do at a time; None: until it is there, which is
    for workers and commands. beat: called about once a second meanwhile; what it raises ends the wait.
    Raises IndexOnItsWay where that takes longer, and what keeps it from coming: IndexNotBuilt where the store does not
    have it, IndexCorrupt where it is damaged there, StoreUnavailable and NotEnoughSpace.
    """
    copy = _directory(company, generation)
    if is_here(company, generation):
        copies.note_use(copy)
        return copy
    fetch = _begun(company, generation, copy)
    if wait_seconds is None:
        while not fetch.over.wait(_BEAT_SECONDS):
            beat()
    elif not _awaited(fetch, wait_seconds):
        raise IndexOnItsWay(company.name)
    if fetch.error:
        raise type(fetch.error)(*fetch.error.args)  # of its own for each: a traceback holds what its thread holds
    return copy


def is_here(company: Company, generation: str) -> bool:
    """Return whether this machine has a copy of the generation."""
    return storage.is_there(_directory(company, generation))


def note_use(company: Company) -> None:
    """Note that the copy of the index which serves the company is used now, if this machine has one."""
    if company.generation is not None:
        copies.note_use(_directory(company, company.generation))


def note_serving(company: Company, generation: str) -> None:
    """Note that this machine's copy of a generation serves the company now."""
    copies.note_serving(_directory(company, generation), _mark(company))


def served(company: Company) -> list[str]:
    """Return the generations that have served the company from copies which are here, the last one first.

    Others may lie beside them: of an earlier company of this name, or candidates.
    """
    found = [copy for copy in copies.copies_of(company.embeddings_directory) if has_served(company, copy)]
    return [copy.name for copy in sorted(found, key=lambda copy: copies.served_at(copy.path), reverse=True)]


def has_served(company: Company, copy: copies.Copy) -> bool:
    """Return whether a copy has served this company, and no other one of its name since."""
    return copies.served(copy.path) == _mark(company)


def _mark(company: Company) -> str:
    """Return what no other company has: a restored database gives primary keys out again."""
    return f"{company.pk} {company.created_at.timestamp()}"


def info(company: Company, generation: str) -> IndexInfo:
    """Return what a generation says of itself, without fetching it; it never changes, so the store is asked once.

    Raises IndexNotBuilt where the store does not have it, IndexCorrupt and StoreUnavailable.
    """
    with suppress(IndexUnusable):  # not here, removed meanwhile, or damaged: the store tells
        return storage.info(_directory(company, generation))
    return remote.info(_store(company), generation)


def throw_away(company: Company, generation: str, damage: IndexUnusable) -> None:
    """Remove a copy that is damaged, so that it is fetched again. Raises damage where that did not help before."""
    copy = _directory(company, generation)
    with _lock:
        if not storage.is_there(copy):
            return  # another thread's doing
        before, now = _thrown_away.get(copy, float("-inf")), time.monotonic()
        if now - before < _THROWN_AWAY_SECONDS:
            raise damage
        _thrown_away[copy] = now
    logger.error("The copy %s of %s is damaged, and fetched again: %s", generation, company, damage)
    metrics.REPLICA_FETCHES.labels("damaged copy").inc()
    storage.discard(copy)


def _store(company: Company) -> ObjectStore:
    store = stores.of(company)
    assert store is not None, "only with IMAGESEARCH_STORE are there copies"
    return store


def _directory(company: Company, generation: str) -> Path:
    return storage.generation_directory(company.embeddings_directory, generation)


def _awaited(fetch: _Fetch, wait_seconds: float) -> bool:
    """Return whether the fetch is over by then."""
    if fetch.over.is_set() or not wait_seconds:
        return fetch.over.is_set()
    if not _places.acquire(blocking=False):
        metrics.REPLICA_WAITS.labels("refused").inc()
        return False
    try:
        arrived = fetch.over.wait(wait_seconds)
    finally:
        _places.release()
    metrics.REPLICA_WAITS.labels("arrived" if arrived else "gave up").inc()
    return arrived


# Fetching -----------------------------------------------------------------------------------------------------------


def _begun(company: Company, generation: str, copy: Path) -> _Fetch:
    """Return the fetch of a copy that is under way in this process, or has just failed, or a new one."""
    with _lock:
        fetch = _fetches.get(copy)
        if fetch is None or fetch.is_over_for_good:
            fetch = _fetches[copy] = _Fetch()
            name = f"fetch-{company.name}"
            threading.Thread(target=_carry_out, args=(fetch, company, generation, copy), name=name, daemon=True).start()
    return fetch


def _carry_out(fetch: _Fetch, company: Company, generation: str, copy: Path) -> None:
    try:
        _fetch(company, generation, copy)
    except Exception as error:
        metrics.REPLICA_FETCHES.labels("failed").inc()
        logger.error("The index %s of %s was not fetched: %s", generation, company, error)
        fetch.ended_at, fetch.error = time.monotonic(), _as_ours(error, copy)
    finally:
        fetch.over.set()
    if fetch.error is None:
        with _lock:
            if _fetches.get(copy) is fetch:
                del _fetches[copy]
        with suppress(OSError):
            _drop_earlier(company, generation)


def _as_ours(error: Exception, copy: Path) -> EngineError:
    if isinstance(error, EngineError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NotEnoughSpace(_NO_SPACE)
    reason = error.strerror if isinstance(error, OSError) else type(error).__name__
    return IndexUnusable(f"The copy {copy} cannot be made: {reason}")


def _fetch(company: Company, generation: str, copy: Path) -> None:
    """Raises IndexNotBuilt, IndexCorrupt, StoreUnavailable, NotEnoughSpace and OSError."""
    directory, store = company.embeddings_directory, _store(company)
    with copies.fetching(directory):
        if storage.is_there(copy):  # another process has fetched it
            return
        began, size = time.monotonic(), remote.size(store, generation)
        make_room(size)
        remote.fetch(store, generation, copy)
        copies.drop_leftovers(directory)
    runtime.verifier().note_undamaged(copy)
    metrics.REPLICA_FETCHES.labels("fetched").inc()
    metrics.REPLICA_FETCHED_BYTES.inc(size)
    seconds = time.monotonic() - began
    logger.info("Fetched the index %s of %s: %d bytes in %.1f s", generation, company, size, seconds)


# What leaves --------------------------------------------------------------------------------------------------------


def make_room(size: int) -> None:
    """Remove copies until so many bytes more are within the budget: the least recently used, and before them those of
    which a newer one of the company is here. What is loaded stays.

    Raises NotEnoughSpace where the disk has too little room then.
    """
    parent = Path(settings.INDEX_DIR)
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / ".room.lock"):
        found = copies.copies(parent)
        held = sum(copy.bytes for copy in found) + copies.bytes_under_way(parent)
        if held + size > settings.REPLICA_BYTES or _free(parent) < size:
            copies.drop_all_leftovers(parent)
        for copy in _the_least_wanted_first(found):
            if held + size <= settings.REPLICA_BYTES and _free(parent) >= size:
                break
            if copies.remove_unused(copy):
                held -= copy.bytes
                logger.info("Removed the copy %s of %s to make room", copy.name, copy.directory.name)
        if _free(parent) < size:
            raise NotEnoughSpace(_NO_SPACE)
        if held + size > settings.REPLICA_BYTES:
            logger.warning("Copies of indexes in use take more than IMAGESEARCH_REPLICA_BYTES")
    note_copies()


def _free(parent: Path) -> int:
    return shutil.disk_usage(parent).free


def _the_least_wanted_first(found: list[copies.Copy]) -> list[copies.Copy]:
    newest: dict[Path, str] = {}
    for copy in found:
        newest[copy.directory] = max(copy.name, newest.get(copy.directory, ""))
    return sorted(found, key=lambda copy: (copy.name == newest[copy.directory], copy.used_at))


def _drop_earlier(company: Company, generation: str) -> None:
    """Remove the machine's copies of generations before this one which nothing needs any more."""
    named = (company.generation, company.candidate)
    for copy in copies.copies_of(company.embeddings_directory):
        if copy.name < generation and copy.name not in named:
            copies.remove_unused(copy)
    note_copies()


def note_copies() -> None:
    """Tell the metrics what the machine holds."""
    found = copies.copies(Path(settings.INDEX_DIR))
    metrics.REPLICA_BYTES.set(sum(copy.bytes for copy in found))
    metrics.REPLICA_COPIES.set(len(found))
