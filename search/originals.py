"""The files of pictures as they lie in a company's folder, for those who may look at them."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from search.engine.errors import PathRefused
from search.engine.index.records import ImageRecord
from search.engine.pictures.decode import extension_of
from search.engine.pictures.shelf import open_picture
from tenants.models import Company

UNKNOWN_TYPE = "application/octet-stream"  # no browser shows or runs it
_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tiff": "image/tiff",
    "webp": "image/webp",
}


class PictureGone(Exception):
    """The file of an indexed picture is missing, or cannot be read or shown."""


@dataclass(frozen=True, slots=True)
class Original:
    """A picture's file, open for reading."""

    file: BinaryIO
    version: str  # another one as soon as the file is replaced or changed
    content_type: str  # by what the file begins with, whatever its name says


def open_original(company: Company, record: ImageRecord) -> Original:
    """Return a picture's file, which the caller closes. Links are followed inside the company's folder only.

    Raises PictureGone.
    """
    try:
        file = open_picture(company.image_directory, record.path)
    except (OSError, PathRefused, ValueError) as error:  # ValueError: a name that no file system can hold
        raise PictureGone("The file of this picture is no longer in the company's folder") from error
    try:
        return Original(file, _version(file), _content_type(file))
    except OSError as error:
        file.close()
        raise PictureGone("The file of this picture cannot be read") from error


@contextmanager
def original(company: Company, record: ImageRecord) -> Iterator[Original]:
    """Yield the same, closed at the end of the block."""
    opened = open_original(company, record)
    with opened.file:
        yield opened


def _version(file: BinaryIO) -> str:
    found = os.fstat(file.fileno())
    seen = f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
    return hashlib.blake2b(seen.encode(), digest_size=16).hexdigest()


def _content_type(file: BinaryIO) -> str:
    head = file.read(12)
    file.seek(0)
    return _TYPES.get(extension_of(head), UNKNOWN_TYPE)
