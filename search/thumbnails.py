"""Small pictures of pictures: made when first asked for, once, and kept in the cache directory.

They lie below thumbnails/ by the company's primary key, one file a picture and size. A file begins with what it was
made of: where that has changed, or a crash has cut the file, it is made anew in its place. All together take
IMAGESEARCH_THUMBNAIL_BYTES; what nobody has asked for the longest goes first.
"""

import hashlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from django.conf import settings
from filelock import FileLock, Timeout

from search import runtime
from search.engine.errors import DecoderBusy, ImageUnreadable
from search.engine.index.records import ImageRecord
from search.engine.pictures.decode import open_image
from search.originals import Original, PictureGone, original
from tenants.models import Company

logger = logging.getLogger(__name__)

SIZES = (160, 320, 640)  # pixels of the longer side; few, because each is a file
CONTENT_TYPE = "image/jpeg"

_MADE_LIKE = b"jpeg 82, white on grey"  # another text makes all of them anew
_QUALITY = 82
_SUM_BYTES = 16
_WAIT_SECONDS = 20  # for another process or thread that makes the same one
_USE_NOTED_SECONDS = 3600
_LOOKS = 64  # into the directory, while the whole budget is written


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture without any metadata, upright, on white or, where it is itself white, on grey."""

    content: bytes  # a JPEG
    version: str  # another one as soon as the original is


def thumbnail(company: Company, record: ImageRecord, *, size: int) -> Thumbnail:
    """Return a picture with its longer side at most size, one of SIZES.

    Raises PictureGone, and DecoderBusy where too much is being decoded.
    """
    with original(company, record) as opened:
        made_of = _made_of(company, opened)
        place = _place(company, record.id, size)
        content = _kept(place, made_of) or _make_once(place, made_of, opened, record, size)
    return Thumbnail(content, f"{made_of.hex()}-{size}")


def _make_once(place: Path, made_of: bytes, opened: Original, record: ImageRecord, size: int) -> bytes:
    with _alone(place):
        if kept := _kept(place, made_of):
            return kept
        content = _draw(opened, name=record.path, size=size)
        _keep(place, made_of, content)
        return content


def _draw(opened: Original, *, name: str, size: int) -> bytes:
    try:
        image = open_image(opened.file, name=name, max_pixels=settings.MAX_PIXELS, min_side=size, gate=runtime.gate())
    except ImageUnreadable as error:
        raise PictureGone(f"This picture cannot be shown: {error}") from error
    image.thumbnail((size, size), reducing_gap=2.0)
    content = BytesIO()
    image.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


# What is kept -------------------------------------------------------------------------------------------------------


def _directory() -> Path:
    return Path(settings.CACHE_DIR) / "thumbnails"


def _place(company: Company, image_id: str, size: int) -> Path:
    name = hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).hexdigest()
    return _directory() / str(company.pk) / name[:2] / f"{name[2:34]}-{size}"


def _made_of(company: Company, opened: Original) -> bytes:
    """Return what tells whether a kept one is still right; a restored database gives primary keys out again."""
    seen = f"{company.created_at.timestamp()} {opened.version}".encode()
    return hashlib.blake2b(_MADE_LIKE + seen, digest_size=_SUM_BYTES).digest()


def _sum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_SUM_BYTES).digest()


def _kept(place: Path, made_of: bytes) -> bytes | None:
    """Return the kept content; None where there is none, or none that is right and whole."""
    try:
        with place.open("rb") as file:
            whole = file.read()
            _note_use(file.fileno())
    except OSError:
        return None
    head, content = whole[: 2 * _SUM_BYTES], whole[2 * _SUM_BYTES :]
    return content if head == made_of + _sum(content) else None


def _note_use(descriptor: int) -> None:
    if time.time() - os.fstat(descriptor).st_mtime > _USE_NOTED_SECONDS:
        with suppress(OSError):
            os.utime(descriptor)


def _keep(place: Path, made_of: bytes, content: bytes) -> None:
    """Keep a new one; where the disk refuses, it is made anew each time."""
    fresh = place.with_name(f".{secrets.token_hex(8)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.write_bytes(made_of + _sum(content) + content)
            fresh.replace(place)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("A thumbnail could not be kept in %s: %s", _directory(), error.strerror)
        return
    if _written.add(len(content)):
        trim(settings.THUMBNAIL_BYTES)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Let one process and thread at a time make a thumbnail; some others, by their names, wait as well."""
    lock = FileLock(_directory() / "locks" / place.parent.name)
    try:
        lock_file = Path(lock.lock_file)
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_WAIT_SECONDS, poll_interval=0.01)
    except Timeout as error:
        raise DecoderBusy from error
    except OSError:  # a directory that cannot be written to keeps none either
        yield
        return
    try:
        yield
    finally:
        lock.release()


# Within bounds ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Written:
    """The bytes that this process has kept since somebody looked into the directory. lock guards them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    count: int = 0

    def add(self, count: int) -> bool:
        """Return whether it is time to look."""
        with self.lock:
            self.count += count
            due = self.count * _LOOKS > settings.THUMBNAIL_BYTES
            if due:
                self.count = 0
            return due


_written = _Written()


def trim(budget_bytes: int) -> None:
    """Remove what was not asked for the longest, until all take nine tenths of a budget that they have exceeded."""
    try:
        with FileLock(_directory() / "trim.lock", timeout=0):
            kept = sorted(_all_kept())
            total = sum(size for _, size, _ in kept)
            if total <= budget_bytes:
                return
            for _, size, path in kept:
                if total <= budget_bytes * 0.9:
                    break
                with suppress(OSError):
                    path.unlink()
                total -= size
    except (Timeout, OSError):  # somebody else does it
        return


def _all_kept() -> Iterator[tuple[float, int, Path]]:
    """Yield when each file was last asked for, its bytes and its path."""
    for company in _companies():
        for path in company.glob("*/*"):
            with suppress(OSError):
                found = path.stat()
                yield found.st_mtime, found.st_size, path


def _companies() -> list[Path]:
    try:
        return [path for path in _directory().iterdir() if path.name.isdecimal()]
    except OSError:
        return []


def forget(company: Company, image_id: str) -> None:
    """Remove the thumbnails of a picture that is deleted."""
    for size in SIZES:
        with suppress(OSError):
            _place(company, image_id, size).unlink()


def forget_company(company: Company) -> None:
    """Remove the thumbnails of a company that is deleted."""
    shutil.rmtree(_directory() / str(company.pk), ignore_errors=True)


def forget_unknown() -> None:
    """Remove those of companies that are not in the database: others deleted them, or made one at the same moment."""
    kept = _companies()
    known = {str(pk) for pk in Company.objects.values_list("pk", flat=True)}
    for directory in kept:
        if directory.name not in known:
            shutil.rmtree(directory, ignore_errors=True)
