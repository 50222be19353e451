"""Pictures put and deleted one at a time: searchable, or gone, at the next search of every process.

The file changes in the company's folder and a LiveChange row is written, in one transaction that also counts up
Company.live_sequence. Every search compares that number with its index's and lays the newer rows over it; a build
folds into the index what lies in the folder.
"""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from io import BytesIO
from typing import Any

from django.conf import settings
from django.db import transaction

from search import overlay, publication, runtime, thumbnails
from search.engine.errors import IndexNotBuilt, PathRefused
from search.engine.index.index import ImageIndex
from search.engine.index.records import ImageRecord, image_id
from search.engine.model.embedder import Embedder, Hashed, read_hashed
from search.engine.pictures.paths import new_path, require_path, spellings
from search.engine.storage.given import given_id
from search.engine.vectors import Vector
from search.folders import folder_of
from search.storage_limits import count_stored, require_room
from tenants import audit
from tenants.models import Company, LiveChange
from tenants.signals import fold_wanted

logger = logging.getLogger(__name__)

_SAME_VECTOR = 0.9999  # cosine; what machines and libraries differ by is far less
_NOTHING = {"vector": None, "fingerprint": "", "perceptual_hash": None}  # of a deleted picture


class FolderUnusable(Exception):
    """The company's folder cannot be written to; the message says why."""


class Put(StrEnum):
    CREATED = "created"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


def find_picture(index: ImageIndex, path: str) -> ImageRecord | None:
    """Return the picture of this path, however it is written; None where there is none."""
    return next(filter(None, map(index.find_path, spellings(path))), None)


class _ModelChanged(Exception):
    """An index of another model serves by now than the one that the picture was embedded for."""


def put_image(company: Company, path: str, content: bytes, *, by: audit.Actor) -> tuple[ImageRecord, Put]:
    """Store a picture under path in the company's folder and make it searchable; tell what that changed.

    A picture that is not there yet gets the path that paths.new_path makes of path.
    Raises PathRefused, FolderUnusable, LimitReached, ImageUnreadable, and what embedding raises.
    """
    while True:
        try:
            return _put(company, path, content, by)
        except _ModelChanged:
            company.refresh_from_db(fields=publication.STATE)


def _put(company: Company, path: str, content: bytes, by: audit.Actor) -> tuple[ImageRecord, Put]:
    """Raises _ModelChanged; then nothing was put."""
    index = overlay.live_index_or_empty(company)
    known = find_picture(index, path)
    path = known.path if known else new_path(path)
    require_path(path)
    held = known if known and _holds(company, path, content) else None
    if held and index.file_sha256(held) == hashlib.sha256(content).digest():
        return held, Put.UNCHANGED
    before = _size(company, path)
    growth = {"pictures": int(before is None), "size": len(content) - (before or 0)}
    require_room(company, **growth)
    embedder = _embedder_of(company, index)
    if not len(index.records):
        runtime.keep_weights(embedder.passport)  # of an index builds keep them
    hashed = read_hashed(embedder, BytesIO(content), name=path, max_pixels=settings.MAX_PIXELS, gate=runtime.gate())
    vector = embedder.embed([hashed.pixels])[0]
    if held and _shows(index, held, vector):
        return held, Put.UNCHANGED
    record, counted = known or _identify(company, path, index), _changes_counted(company, index)
    with _writing_to(company), folder_of(company).shelf(make=True) as shelf, shelf.stage() as staged:
        staged.file.write(content)
        staged.sync()
        with transaction.atomic():
            sequence = company.next_live_sequence(at_least=counted)
            _require_model(company, embedder)
            count_stored(company, **growth)
            _write_change(company, record, sequence, _embedded(hashed, vector, embedder))
            audit.record(by, audit.Action.PICTURE_PUT, company, path)
            staged.place(path, replace=True, durable=True)  # last: without its file the row is rolled back
    fold_wanted.send_robust(Company, company=company)
    return record, Put.REPLACED if known else Put.CREATED


def _embedder_of(company: Company, index: ImageIndex) -> Embedder:
    """Return the model of the index that serves; with a store, this machine may have an earlier one still."""
    used = publication.model_in_use(company) if settings.STORE else None
    return runtime.embedder_of(used) if used else runtime.embedder_for(index)


def _require_model(company: Company, embedder: Embedder) -> None:
    """Raise _ModelChanged unless the embedder is that of the index which serves now, the company's row being locked."""
    now = Company.objects.get(pk=company.pk)
    if now.generation != company.generation:
        used = publication.model_in_use(now)
        if used and used.fingerprint != embedder.passport.fingerprint:
            raise _ModelChanged


def delete_image(company: Company, path: str, *, by: audit.Actor) -> ImageRecord | None:
    """Remove a picture from the company's folder and from its searches; None where there is no such picture.

    Raises PathRefused and FolderUnusable.
    """
    index = overlay.live_index_or_empty(company)
    record = find_picture(index, path)
    path = record.path if record else path
    require_path(path)
    if record is None and not _has_file(company, path):
        return None
    record, counted = record or _identify(company, path, index), _changes_counted(company, index)
    with _writing_to(company), transaction.atomic():
        sequence = company.next_live_sequence(at_least=counted)
        if (size := _size(company, path)) is not None:
            count_stored(company, pictures=-1, size=-size)
        _write_change(company, record, sequence, _NOTHING)
        audit.record(by, audit.Action.PICTURE_DELETED, company, path)
        _remove_file(company, path)  # last: while its file is there the row is rolled back
    thumbnails.forget(company, record.id)
    fold_wanted.send_robust(Company, company=company)
    return record


def _changes_counted(company: Company, index: ImageIndex) -> int:
    """Return the last live change that the index, or another on the disk, holds: an index may be in memory alone."""
    return max(index.info.holds_changes_to, publication.changes_on_disk(company))


def _identify(company: Company, path: str, index: ImageIndex) -> ImageRecord:
    """Return the record of a picture that is not in the index: with the id that it once had, where it had one.

    Asked are the index, which keeps what is hidden, the company's changes, and what another program gave: the next
    build asks for that, too.
    """
    hidden = index.records.rows_of_path(path)
    if hidden:
        return index.records[hidden[0]]
    changed = LiveChange.objects.filter(company=company, path=path).values_list("image_id", flat=True).first()
    return ImageRecord(path, changed or _given_id(company, path) or image_id(company.name, path))


def _given_id(company: Company, path: str) -> str | None:
    """Return the id that another program gave to the picture; with a store the newest copy here tells."""
    try:
        directory = publication.newest_here(company) if settings.STORE else publication.index_directory(company)
        return given_id(directory, path)
    except IndexNotBuilt:
        return None


def _embedded(hashed: Hashed, vector: Vector, embedder: Embedder) -> dict[str, Any]:
    return {
        "vector": vector.tobytes(),
        "fingerprint": embedder.passport.fingerprint,
        "perceptual_hash": hashed.perceptual_hash.to_bytes(8, "big"),
    }


def _write_change(company: Company, record: ImageRecord, sequence: int, embedded: dict[str, Any]) -> None:
    LiveChange.objects.update_or_create(
        company=company,
        path=record.path,
        defaults={
            "sequence": sequence,
            "image_id": record.id,
            **embedded,
            "second_vector": None,
            "second_fingerprint": "",
        },
    )


def _holds(company: Company, path: str, content: bytes) -> bool:
    with suppress(OSError), folder_of(company).shelf() as shelf:
        return shelf.holds(path, content)
    return False


def _shows(index: ImageIndex, record: ImageRecord, vector: Vector) -> bool:
    """Return whether the index has this vector for the picture: the file may be newer than the index."""
    indexed = index.find_vector(record.id)
    return indexed is not None and float(indexed @ vector) >= _SAME_VECTOR


def _size(company: Company, path: str) -> int | None:
    """Return the bytes of the picture's file; None where there is none."""
    with suppress(OSError, PathRefused), folder_of(company).shelf() as shelf:
        return shelf.size(path)
    return None


def _has_file(company: Company, path: str) -> bool:
    with _writing_to(company), suppress(FileNotFoundError), folder_of(company).shelf() as shelf:
        shelf.require(path)
        return True
    return False


def _remove_file(company: Company, path: str) -> None:
    with suppress(FileNotFoundError), folder_of(company).shelf() as shelf:
        shelf.remove(path)


@contextmanager
def _writing_to(company: Company) -> Iterator[None]:
    """Say in words that reach the caller why a disk refuses."""
    try:
        yield
    except OSError as error:
        raise FolderUnusable(f"The folder of {company} cannot be written to: {error.strerror}") from error
