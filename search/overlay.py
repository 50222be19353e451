"""The index as of now: what was built, and the live changes that it lacks laid over it.

Every search compares Company.live_sequence with its index's and lays the newer LiveChange rows over it.
"""

import logging
import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from search import runtime
from search.engine.errors import IndexNotBuilt
from search.engine.index.index import ImageIndex, LiveImage, empty_index
from search.engine.index.records import ImageRecord
from tenants.models import Company, LiveChange

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Overlay:
    """An index with the live changes up to sequence laid over it. Replaced whole, never changed."""

    sequence: int
    index: ImageIndex


# By the built index below, which is not held: when the cache lets go of it, the overlay goes as well.
_overlays: WeakKeyDictionary[ImageIndex, _Overlay] = WeakKeyDictionary()
_empty_indexes: dict[int, ImageIndex] = {}  # by company, of those that have none yet
_overlays_lock = threading.Lock()  # guards both


def live_index(company: Company) -> ImageIndex:
    """Return the company's index as of now, with all live changes. Raises IndexNotBuilt and IndexCorrupt.

    company: freshly read from the database.
    """
    try:
        base = runtime.index_cache().get(company.embeddings_directory)
    except IndexNotBuilt:
        if not company.live_sequence:
            raise
        with _overlays_lock:
            base = _empty_indexes.setdefault(company.pk, empty_index())
    folded = base.info.live_sequence or 0
    if company.live_sequence <= folded:
        return base
    with _overlays_lock:
        overlay = _overlays.get(base, _Overlay(folded, base))
        if overlay.sequence < company.live_sequence:
            overlay = _overlays[base] = _caught_up(overlay, company, base.info.fingerprint)
    return overlay.index


def _caught_up(overlay: _Overlay, company: Company, made_by: str | None) -> _Overlay:
    changes = list(LiveChange.objects.filter(company=company, sequence__gt=overlay.sequence))
    index = overlay.index.with_changes([_live_image(change, made_by) for change in changes])
    return _Overlay(max([company.live_sequence, *(change.sequence for change in changes)]), index)


def _live_image(change: LiveChange, made_by: str | None) -> LiveImage:
    record = ImageRecord(change.path, change.image_id)
    if change.vector is None:
        return LiveImage(record, None)
    if made_by and change.fingerprint != made_by:
        logger.warning("%s was put with another model than the index's: the next build embeds it again", change.path)
        return LiveImage(record, None)
    return LiveImage(record, np.frombuffer(change.vector, np.float32))


def index_or_empty(company: Company) -> ImageIndex:
    try:
        return live_index(company)
    except IndexNotBuilt:
        return empty_index()
