"""The files of pictures as they lie in a company's folder, for those who may look at them."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from search.engine.errors import PathRefused
from search.engine.index.records import ImageRecord
from search.engine.pictures.decode import extension_of
from search.engine.pictures.folder import Look
from search.folders import folder_of
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
    look: Look  # at the file, as it was opened

    @property
    def version(self) -> str:
        """Another text as soon as the file is replaced or changed."""
        return hashlib.blake2b(self.look.version.encode(), digest_size=16).hexdigest()


def open_original(company: Company, record: ImageRecord, *, at_once: bool = False) -> Original:
    """Return a picture's file, which the caller closes. Links are followed inside the company's folder only.

    at_once: false where perhaps its look is enough. Raises PictureGone and StoreError.
    """
    folder = folder_of(company)
    try:
        file = folder.open(record.path, at_once=at_once)
    except (OSError, PathRefused, ValueError) as error:  # ValueError: a name that no file system can hold
        raise PictureGone("The file of this picture is no longer in the company's folder") from error
    try:
        return Original(file, folder.look(file))
    except OSError as error:
        file.close()
        raise PictureGone("The file of this picture cannot be read") from error


@contextmanager
def original(company: Company, record: ImageRecord) -> Iterator[Original]:
    """Yield the same, closed at the end of the block."""
    opened = open_original(company, record)
    with opened.file:
        yield opened


def content_type(opened: Original) -> str:
    """Return the type by what the file begins with, whatever its name says. Raises PictureGone."""
    try:
        opened.file.seek(0)
        head = opened.file.read(12)
        opened.file.seek(0)
    except OSError as error:
        raise PictureGone("The file of this picture cannot be read") from error
    return _TYPES.get(extension_of(head), UNKNOWN_TYPE)
