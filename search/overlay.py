"""The index as of now: what was built, and the live changes that it lacks laid over it.

Every search compares Company.live_sequence with its index's and lays the newer LiveChange rows over it. Overlays hang
on the built index, which belongs to one company and one generation: when the cache lets go of it, the overlay goes too.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from weakref import WeakKeyDictionary

import numpy as np

from search import publication, runtime
from search.engine.errors import IndexCorrupt, IndexNotBuilt
from search.engine.index.index import ImageIndex, IndexInfo, LiveImage, empty_index
from search.engine.index.records import ImageRecord
from search.engine.model.passport import ModelPassport
from tenants.models import Company, LiveChange

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Overlay:
    """An index with the live changes up to sequence laid over it. Replaced whole, never changed."""

    sequence: int
    index: ImageIndex


@dataclass(slots=True)
class _Overlaid:
    """What lies over one built index. lock guards overlay, so one company's catching up makes no other wait."""

    overlay: _Overlay
    lock: threading.Lock = field(default_factory=threading.Lock)


_overlaid: WeakKeyDictionary[ImageIndex, _Overlaid] = WeakKeyDictionary()  # by built index
# By company, of those that have no index yet: by key and birth, because a restored database gives keys out again.
_empty: dict[tuple[int, datetime], ImageIndex] = {}
_lock = threading.Lock()  # guards both tables, and nothing slow happens under it


class _Superseded(Exception):
    """Changes that this index lacks became part of a newer one and are gone from the database."""


def live_index(company: Company) -> ImageIndex:
    """Return the company's index as of now, with all live changes. Raises IndexNotBuilt and IndexCorrupt.

    company: freshly read from the database.
    """
    return _live(company, publication.built_index)


def live_index_of_files(company: Company) -> ImageIndex:
    """Return the same, read from the generation's files, whatever searches the company: for workers."""
    return _live(company, publication.index_of_files)


def _live(company: Company, built_index: Callable[[Company], ImageIndex]) -> ImageIndex:
    while True:
        built = _built_or_empty(company, built_index)
        if company.live_sequence <= built.info.holds_changes_to:
            return built
        try:
            return _with_changes(built, company)
        except _Superseded:
            before = company.generation, company.live_floor
            company.refresh_from_db(fields=publication.STATE)
            if (company.generation, company.live_floor) == before:
                raise IndexCorrupt(
                    f"The index of {company} is older than changes that are gone from the database: "
                    f"run manage.py build_embeddings --company {company}"
                ) from None


def live_index_or_empty(company: Company, *, of_files: bool = False) -> ImageIndex:
    """Return the same, and an empty index for a company that has none."""
    try:
        return live_index_of_files(company) if of_files else live_index(company)
    except IndexNotBuilt:
        if company.generation is not None:  # it has one, which is gone
            raise
        return empty_index()


def _built_or_empty(company: Company, built_index: Callable[[Company], ImageIndex]) -> ImageIndex:
    try:
        return built_index(company)
    except IndexNotBuilt:
        if company.generation is not None or not company.live_sequence:
            raise
        return _empty_index(company)


def _empty_index(company: Company) -> ImageIndex:
    """Return the index of a company that has only live changes: it is of the model that made their vectors."""
    key = company.pk, company.created_at
    with _lock:
        known = _empty.get(key)
    if known is None:
        made_by = _model_of_changes(company)
        info = IndexInfo(0, weights=made_by.weights, fingerprint=made_by.fingerprint) if made_by else IndexInfo(0)
        with _lock:
            known = _empty.setdefault(key, replace(empty_index(), info=info))
    return known


def _model_of_changes(company: Company) -> ModelPassport | None:
    """Return the model of the changes; the configured one where the weights of theirs are gone."""
    first = company.live_changes.exclude(vector=None).only("fingerprint").first()
    return runtime.find_passport(first.fingerprint) or runtime.configured_model() if first else None


def _with_changes(built: ImageIndex, company: Company) -> ImageIndex:
    with _lock:
        overlaid = _overlaid.setdefault(built, _Overlaid(_Overlay(built.info.holds_changes_to, built)))
    with overlaid.lock:
        if overlaid.overlay.sequence > company.live_sequence and _is_behind(company, overlaid.overlay):
            overlaid.overlay = _Overlay(built.info.holds_changes_to, built)
        if overlaid.overlay.sequence < company.live_sequence:
            overlaid.overlay = _caught_up(overlaid.overlay, company, built.info.fingerprint)
        return overlaid.overlay.index


def _is_behind(company: Company, overlay: _Overlay) -> bool:
    """Return whether the database knows of fewer changes than were seen in it: an older one was restored.

    A request that has read its row a moment ago is behind as well, but the row is not.
    """
    company.refresh_from_db(fields=publication.STATE)
    return company.live_sequence < overlay.sequence


def _caught_up(overlay: _Overlay, company: Company, made_by: str | None) -> _Overlay:
    changes, floor = _changes(company, overlay.sequence)
    if floor > overlay.sequence:
        raise _Superseded
    index = overlay.index.with_changes([_live_image(change, made_by) for change in changes])
    return _Overlay(max([company.live_sequence, *(change.sequence for change in changes)]), index)


def _changes(company: Company, sequence: int) -> tuple[list[LiveChange], int]:
    """Return the changes after sequence, and up to which one they are gone from the table."""
    changes = list(company.live_changes.missing_from(sequence))
    # Asked last: what a build has settled meanwhile is missing from the changes.
    return changes, Company.objects.values_list("live_floor", flat=True).get(pk=company.pk)


def _live_image(change: LiveChange, made_by: str | None) -> LiveImage:
    record, vector = ImageRecord(change.path, change.image_id), change.vector_of(made_by)
    if vector is None and change.vector is not None:
        logger.warning("%s was added with another model, and is hidden until it is embedded again", change.path)
    if vector is None:
        return LiveImage(record, None)
    return LiveImage(record, np.frombuffer(vector, np.float32), int.from_bytes(change.perceptual_hash or b"", "big"))
