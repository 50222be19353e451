"""Copies of the weights that indexes were made with, in the store: a machine that lacks them fetches them.

They lie below .weights/ as on a disk, see search/engine/model/kept.py; the card comes last.
"""

import logging
import time
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

from search import stores
from search.engine.errors import StoreUnavailable, WeightsUnavailable
from search.engine.model import kept
from search.engine.objects import ObjectStore

logger = logging.getLogger(__name__)

_CARD_BYTES = 1 << 20
_BELIEVED_SECONDS = 60.0  # that what did not work is not tried again

# By fingerprint; entries are added whole.
_shared: set[str] = set()
_unshared: dict[str, float] = {}  # when it was tried
_missing: dict[str, float] = {}  # when they were asked for


def share(fingerprint: str, place: Path) -> None:
    """Upload a copy of weights that is kept in place, unless the store has it, or did not answer a moment ago.

    Raises StoreUnavailable and OSError.
    """
    store = _store()
    if store is None or fingerprint in _shared or _is_believed(_unshared, fingerprint):
        return
    _unshared[fingerprint] = time.monotonic()
    copy = kept.kept_path(fingerprint, place)
    card = copy.with_suffix(".json")
    if card.name not in {each.key for each in store.listing()}:
        store.upload(copy, copy.name)
        store.write(card.name, card.read_bytes())
    _shared.add(fingerprint)


def fetch(fingerprint: str, place: Path) -> bool:
    """Keep in place a copy of the weights of this fingerprint; tell whether it is there, and has not been before."""
    store = _store()
    if store is None or _is_believed(_missing, fingerprint):
        return False
    copy = kept.kept_path(fingerprint, place)
    try:
        card = store.read(copy.with_suffix(".json").name, limit=_CARD_BYTES)
        kept.take(fingerprint, place, card=card, write=lambda file: store.download(copy.name, file))
    except (FileNotFoundError, ValueError, StoreUnavailable, WeightsUnavailable, OSError) as error:
        logger.info("The weights %s are not to be had from the store: %s", fingerprint[:12], error)
        _missing[fingerprint] = time.monotonic()
        return False
    logger.info("Fetched the weights %s from the store", fingerprint[:12])
    return True


def drop(needed: Collection[str], *, older_than: float) -> list[str]:
    """Remove from the store the copies of other weights than those needed, and return which.

    older_than: seconds, as of kept.drop(). Raises StoreUnavailable.
    """
    store, root = _store(), stores.root()
    if store is None or root is None:
        return []
    before = root.now() - timedelta(seconds=older_than)
    left = [each.key for each in store.listing() if each.modified_at < before and Path(each.key).stem not in needed]
    store.delete(sorted(left))  # a card, which ends in json, before its copy
    return sorted({Path(key).stem for key in left})


def _is_believed(times: dict[str, float], fingerprint: str) -> bool:
    return time.monotonic() - times.get(fingerprint, float("-inf")) < _BELIEVED_SECONDS


def _store() -> ObjectStore | None:
    root = stores.root()
    return root.below(stores.WEIGHTS) if root else None
