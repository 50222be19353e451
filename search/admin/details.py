"""What the page of one picture tells of it."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from django.conf import settings

from search.engine.errors import ImageUnreadable, StoreError
from search.engine.index.index import ImageIndex
from search.engine.index.records import ImageRecord
from search.engine.pictures.decode import measure
from search.http.signed_urls import Viewer, picture_urls
from search.originals import Original, PictureGone, original
from tenants.models import Company


@dataclass(frozen=True, slots=True)
class File:
    """A picture's file as it lies in the folder now."""

    size: int  # bytes
    changed_at: datetime | None
    kind: str  # such as JPEG; "" where it is no picture
    width: int  # pixels, upright; 0 where it is no picture
    height: int
    problem: str  # why it can't be shown


@dataclass(frozen=True, slots=True)
class Details:
    url: str  # of the file as it is
    file: File | None  # None: it is gone
    problem: str  # why there is no file
    indexed_at: datetime | None  # when the index was built that holds it, or when it was added to that
    is_live: bool  # added or replaced since the index was built


def details(company: Company, index: ImageIndex, record: ImageRecord, *, viewer: Viewer) -> Details:
    """Return what is known of a picture of the company's index, which its file may contradict by now."""
    file, problem = None, ""
    try:
        with original(company, record) as opened:
            file = _look_at(opened, record)
    except PictureGone as error:
        problem = str(error)
    except StoreError:
        problem = "The store that holds the file cannot be reached at the moment"
    is_live = record in index.added
    return Details(
        url=picture_urls(company, record.id, viewer=viewer).url,
        file=file,
        problem=problem,
        indexed_at=_added_at(company, record) if is_live else _built_at(index),
        is_live=is_live,
    )


def file_of(company: Company, record: ImageRecord) -> File | None:
    """Return a picture's file as it lies in the folder now; None where it is gone."""
    with suppress(PictureGone, StoreError), original(company, record) as opened:
        return _look_at(opened, record)
    return None


def _look_at(opened: Original, record: ImageRecord) -> File:
    size, modified_at = opened.look.size, opened.look.modified_ns / 1e9
    changed_at = None
    with suppress(ValueError, OverflowError, OSError):  # a date that no calendar has
        changed_at = datetime.fromtimestamp(modified_at, UTC)
    try:
        kind, (width, height) = measure(opened.file, name=record.path, max_pixels=settings.MAX_PIXELS)
    except ImageUnreadable as error:
        return File(size, changed_at, "", 0, 0, str(error))
    return File(size, changed_at, kind, width, height, "")


def _added_at(company: Company, record: ImageRecord) -> datetime | None:
    change = company.live_changes.filter(path=record.path).first()
    return change.changed_at if change else None


def _built_at(index: ImageIndex) -> datetime | None:
    try:
        return datetime.fromisoformat(index.info.timestamp or "").astimezone(UTC)
    except ValueError:
        return None
