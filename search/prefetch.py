"""Copies of indexes that this machine fetches before anybody searches them.

One server process of the machine looks after the companies that are marked for it, as long as it holds a lock. When it
ends, another one finds the lock free at its next round.
"""

import logging
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from django.conf import settings
from django.db import Error, connection
from filelock import FileLock, Timeout

from search import collections, replica
from search.engine.errors import EngineError
from search.engine.storage import copies
from tenants.models import Company

logger = logging.getLogger(__name__)

ROUND_SECONDS = 5.0
_AGAIN_SECONDS = 600.0  # what has left since it was fetched is not fetched sooner: there is too little room

_fetched: dict[tuple[int, str | None], float] = {}  # when, by key and generation of a company; of the one thread


def lacking(companies: Iterable[Company]) -> list[Company]:
    """Return those of the companies, freshly read, whose index lies in the store and not on this machine."""
    return [
        each
        for each in companies
        if each.generation is not None and not collections.serve(each) and not replica.is_here(each, each.generation)
    ]


def fetch(company: Company) -> None:
    """Fetch the index that serves the company. Raises what replica.at_hand() raises."""
    if company.generation is not None:
        replica.at_hand(company, company.generation, wait_seconds=None)


def look_in_background() -> threading.Event:
    """Have a thread of this process look after the machine's copies; return what ends that once it is set."""
    over = threading.Event()
    if settings.STORE:
        threading.Thread(target=_look_until, args=(over,), name="prefetch", daemon=True).start()
    return over


def _look_until(over: threading.Event) -> None:
    place = Path(settings.INDEX_DIR)
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / ".prefetch.lock")
    while not over.is_set():
        try:
            with suppress(Timeout):
                if not lock.is_locked:
                    lock.acquire(timeout=0)
                look()
        except Error as error:
            logger.debug("The database cannot be asked which indexes are to be fetched: %s", error)
        except Exception:  # of one look around
            logger.exception("The copies of indexes cannot be looked after")
        finally:
            connection.close()
        over.wait(ROUND_SECONDS)


def _fetch_unless_lately(company: Company) -> None:
    key, now = (company.pk, company.generation), time.monotonic()
    if now - _fetched.get(key, float("-inf")) < _AGAIN_SECONDS:
        return
    with suppress(EngineError):  # the log tells
        fetch(company)
        for old in [each for each in _fetched if each[0] == company.pk]:
            del _fetched[old]
        _fetched[key] = now


def look() -> None:
    """Fetch what the marked companies lack here, and remove the copies of companies that were deleted. Raises Error."""
    marked = list(Company.objects.active().filter(prefetch=True))
    missing = lacking(marked)
    for company in marked:
        if company not in missing:
            replica.note_use(company)
    for company in missing:
        _fetch_unless_lately(company)
    known = {each.name: each for each in Company.objects.only("name", "created_at")}
    for directory in copies.directories(Path(settings.INDEX_DIR)):
        for copy in copies.copies_of(directory):
            if _is_of_deleted(copy, known.get(directory.name)) and copies.remove_unused(copy):
                logger.info("Removed the copy %s of %s, which was deleted", copy.name, directory.name)


def _is_of_deleted(copy: copies.Copy, company: Company | None) -> bool:
    """Return whether a copy is of a company that is no more. company: the one that has the name now."""
    return company is None or bool(copies.served(copy.path) and not replica.has_served(company, copy))
