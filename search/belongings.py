"""What belongs to a company's index beside its generations: in the store, or, without one, in their folder.

company.json          what protects the company
.live_changes.json    changes that the index lacks whose company was deleted
.duplicates           what a search for duplicates has found
"""

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from django.conf import settings

from search import stores
from search.engine import storage
from search.engine.damage import DamageNamed
from search.engine.errors import IndexCorrupt, StoreUnavailable
from search.engine.index.duplicates import DuplicatePairs
from search.engine.index.index import IndexInfo
from search.engine.objects import ObjectStore
from search.engine.storage import parts, remote
from search.engine.storage.duplicates import duplicates_content, parse_duplicates
from search.engine.storage.generations import company_card_content, parse_company_card
from search.engine.storage.layout import COMPANY_CARD, DUPLICATES, KEPT_CHANGES
from tenants.models import Company

logger = logging.getLogger(__name__)

_CARD_BYTES = 1 << 20
_CHANGES_BYTES = 1 << 32
_DUPLICATES_BYTES = 1 << 32
_BELIEVED_SECONDS = 10.0  # so long what was found of duplicates counts as unchanged, which searches ask for

_stamps: dict[int, tuple[float, str]] = {}  # by company: when the store was asked, and what it said; replaced whole


# What protects a company --------------------------------------------------------------------------------------------


def write_company_card(company: Company, protection: dict[str, Any]) -> None:
    """Raises OSError and StoreUnavailable."""
    if store := stores.of(company):
        store.write(COMPANY_CARD, company_card_content(protection))
    else:
        storage.write_company_card(company.embeddings_directory, protection)


def read_company_card(company: Company) -> dict[str, Any] | None:
    """Return what was kept; None where nothing was. Raises IndexCorrupt and StoreUnavailable."""
    store = stores.of(company)
    if store is None:
        return storage.read_company_card(company.embeddings_directory)
    return _read_object(store, COMPANY_CARD, _CARD_BYTES, parse_company_card)


def has_company_card(company: Company) -> bool:
    """Raises StoreUnavailable."""
    if store := stores.of(company):
        return _has(store, COMPANY_CARD)
    return storage.has_company_card(company.embeddings_directory)


# Changes of a company that was deleted --------------------------------------------------------------------------------


def write_kept_changes(company: Company, changes: dict[str, Any] | None) -> None:
    """changes: None: there are none. Raises OSError and StoreUnavailable."""
    store = stores.of(company)
    if store is None:
        storage.write_kept_changes(company.embeddings_directory, changes)
    elif changes is None:
        store.delete([KEPT_CHANGES])
    else:
        store.write(KEPT_CHANGES, json.dumps(changes).encode())


def read_kept_changes(company: Company) -> dict[str, Any] | None:
    """Return what was kept; None where nothing was. Raises IndexCorrupt and StoreUnavailable."""
    store = stores.of(company)
    if store is None:
        return storage.read_kept_changes(company.embeddings_directory)
    return _read_object(store, KEPT_CHANGES, _CHANGES_BYTES, parts.parse_object)


# All of it -----------------------------------------------------------------------------------------------------------


def holds_any_index(company: Company) -> bool:
    """Return whether anything is left of an index of the company, whole or damaged. Raises StoreUnavailable."""
    if store := stores.of(company):
        return bool(remote.names(store))
    return storage.holds_any_index(company.embeddings_directory)


def erase(company: Company) -> None:
    """Remove the company's index with all that belongs to it.

    Raises PublishRefused where a directory holds something that is no part of an index, OSError and StoreUnavailable.
    """
    if store := stores.of(company):
        remote.remove_all(store, last=COMPANY_CARD)  # what a killed process leaves stays closed
        storage.erase_leftovers(company.embeddings_directory)
    else:
        storage.erase(company.embeddings_directory)


def erase_leftovers(company: Company) -> None:
    """Remove what belongs to an index that is not there. Raises OSError and StoreUnavailable."""
    if store := stores.of(company):
        remote.remove_all(store, last=COMPANY_CARD)
    storage.erase_leftovers(company.embeddings_directory)


def size(company: Company) -> int:
    """Return how many bytes the company's index takes with all its generations. Raises StoreUnavailable."""
    if store := stores.of(company):
        return sum(each.size for each in store.listing())
    return storage.size_on_disk(company.embeddings_directory)


def infos_of_all() -> Iterator[IndexInfo]:
    """Yield what all generations of all indexes say of themselves, damaged ones left out. Raises StoreUnavailable."""
    root = stores.root()
    if root is None:
        yield from storage.infos_of_all(Path(settings.INDEX_DIR))
        return
    for name in root.children()[0]:
        if not name.startswith("."):
            yield from (each.info for each in remote.generations(root.below(name), None))


# Duplicates -----------------------------------------------------------------------------------------------------------


def write_duplicates(company: Company, pairs: DuplicatePairs) -> None:
    """Keep what was found, whole for every reader. Raises OSError and StoreUnavailable."""
    if store := stores.of(company):
        store.write(DUPLICATES, duplicates_content(pairs))
        _stamps.pop(company.pk, None)
    else:
        storage.write_duplicates(company.embeddings_directory, pairs)


def read_duplicates(company: Company) -> DuplicatePairs | None:
    """Return what was found; None where nobody has looked, or it is of no use or not to be had, which the log says."""
    store = stores.of(company)
    if store is None:
        return storage.read_duplicates(company.embeddings_directory)
    try:
        content = _read(store, DUPLICATES, _DUPLICATES_BYTES)
        return None if content is None else parse_duplicates(content, Path(store.url, DUPLICATES))
    except (IndexCorrupt, StoreUnavailable) as error:
        logger.warning("What was found of duplicates of %s cannot be used: %s", company, error)
        return None


def duplicates_stamp(company: Company) -> str:
    """Return a text that changes whenever something else was found; "" where nobody has looked.

    With a store that takes some seconds; while it is away, what it said last counts.
    """
    store = stores.of(company)
    if store is None:
        return storage.duplicates_stamp(company.embeddings_directory)
    asked_at, stamp = _stamps.get(company.pk, (float("-inf"), ""))
    if time.monotonic() - asked_at > _BELIEVED_SECONDS:
        stamp = _ask_for_stamp(store, stamp)
        _stamps[company.pk] = (time.monotonic(), stamp)
    return stamp


def _ask_for_stamp(store: ObjectStore, before: str) -> str:
    try:
        return store.stat(DUPLICATES).etag
    except FileNotFoundError:
        return ""
    except StoreUnavailable as error:
        logger.warning("Whether duplicates were looked for is not known: %s", error)
        return before


def _read_object(
    store: ObjectStore, key: str, limit: int, parse: Callable[[bytes], dict[str, Any]]
) -> dict[str, Any] | None:
    content = _read(store, key, limit)
    if content is None:
        return None
    with DamageNamed(Path(store.url, key)):
        return parse(content)


def _read(store: ObjectStore, key: str, limit: int) -> bytes | None:
    try:
        return store.read(key, limit=limit)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise IndexCorrupt(str(error)) from error


def _has(store: ObjectStore, key: str) -> bool:
    try:
        store.stat(key)
    except FileNotFoundError:
        return False
    return True
