"""What the path of a picture may be: relative to its company's folder, with forward slashes.

Two rules, because pictures that lie in a folder already keep their names, whatever these are:

- require_path: the least that every part of the service needs, to index a picture, answer with it and archive it.
- new_path: what a picture is called that is put or uploaded now: a name that is short enough for every database and
  file system, and reads as what it is. Separators become one slash each, and marks of direction are left out, which
  WhatsApp puts in front of its names. White space stays as it came: cameras and people put it anywhere.
"""

import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, Literal

from search.engine.errors import PathRefused

FORMATS = {  # that a file of this extension has to hold
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
    "tif": "TIFF",
    "webp": "WEBP",
}
ALLOWED_EXTENSIONS = tuple(FORMATS)
NOT_UTF8 = "The name is not valid UTF-8"
CONTROL = "The path contains control characters: rename it"
TYPE_NOT_ALLOWED = f"File type not allowed, allowed types: {', '.join(ALLOWED_EXTENSIONS)}"

MAX_BYTES = 4096  # PATH_MAX of Linux; how long a part may be its file system tells, from 255 to 1020 bytes
MAX_NEW_BYTES, MAX_NEW_PART_BYTES = 1000, 250  # on every file system and in every database's index

FORMS: Final[tuple[Literal["NFC", "NFD"], ...]] = ("NFC", "NFD")

_DRIVE = re.compile("[A-Za-z]:")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")
_MARKS = re.compile("[\u061c\u200e\u200f]")  # of direction: alone they reorder no letters
_INVISIBLE = {"Cf", "Zl", "Zp"}  # categories: directions of writing, joiners, breaks of lines
_FILLERS = "\u115f\u1160\u3164\uffa0"  # letters that show nothing
_NEEDED = re.compile(  # signs of Arabic and Syriac, joiners of letters and emoji
    "[\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u200c\u200d\U000110bd\U000110cd\U000e0020-\U000e007f]"
)

# Folders that systems and servers keep beside people's pictures: thumbnails, deleted files, resource forks.
_SYSTEM_FOLDERS = {
    "__macosx",
    "@eadir",
    "#recycle",
    "@recycle",
    "@recently-snapshot",
    "#snapshot",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
}
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", ".ds_store"}


def extension(name: str) -> str:
    """Return what follows the last dot of name, in lower case; "" where there is none."""
    _, dot, ending = name.rpartition(".")
    return ending.lower() if dot else ""


def has_allowed_extension(name: str) -> bool:
    """Return whether name ends in one of ALLOWED_EXTENSIONS, in any case."""
    return extension(name) in FORMATS


def has_control_characters(path: str) -> bool:
    """Return whether path holds what no store can name, and no new picture's path may hold."""
    return bool(_CONTROL.search(path))


def is_system_folder(name: str) -> bool:
    """Return whether a folder of this name holds what a system keeps beside people's pictures, and no pictures."""
    return name.lower() in _SYSTEM_FOLDERS


def is_left_by_a_system(path: str) -> bool:
    """Return whether nobody meant this file of a zip to be uploaded."""
    *folders, name = path.split("/")
    return name.lower() in _SYSTEM_FILES or name.startswith("._") or any(map(is_system_folder, folders))


def spellings(path: str) -> Iterator[str]:
    """Yield path, and the other ways to write it, under which a picture may be kept: a Mac writes accents apart."""
    yield path
    with suppress(PathRefused):
        yield new_path(path)
    for form in FORMS:
        yield unicodedata.normalize(form, path)


def require_path(path: str) -> None:
    """Raise PathRefused unless a picture of this path can be indexed, answered with and archived."""
    if not path:
        raise PathRefused(path, "The name is empty")
    if not is_utf8(path):
        raise PathRefused(path, NOT_UTF8)
    if path.startswith("/"):
        raise PathRefused(path, "An absolute path: use one relative to the company's folder")
    if "/../" in f"/{path}/":
        raise PathRefused(path, "The path leads out of the folder")
    if "//" in path or "/./" in f"/{path}/":
        raise PathRefused(path, "The path has an empty part: remove the // or ./")
    if "/." in f"/{path}":
        raise PathRefused(path, "A hidden file or folder: names must not start with a dot")
    if "\0" in path:
        raise PathRefused(path, CONTROL)
    if not has_allowed_extension(path):
        raise PathRefused(path, TYPE_NOT_ALLOWED)
    if len(path.encode()) > MAX_BYTES:
        raise PathRefused(path, f"The path is longer than {MAX_BYTES} bytes: shorten it")


def new_path(name: str, *, location: str = "") -> str:
    """Return the path of a picture that gets this name, or path, now. Raises PathRefused where no new one may have it.

    location: a folder below the company's.
    """
    name, location = (_MARKS.sub("", text).replace("\\", "/") for text in (name, location))
    if name.startswith("/"):
        raise PathRefused(name, "An absolute path: use one relative to the company's folder")
    *folders, file_name = f"{location}/{name}".split("/")
    path = "/".join([*(folder for folder in folders if folder not in ("", ".")), file_name])
    require_path(path)
    _require_new(path)
    return path


def require_location(location: str) -> None:
    """Raise PathRefused where no new picture may lie in this folder below the company's, whatever it is called."""
    new_path(f"a.{ALLOWED_EXTENSIONS[0]}", location=location)


def _require_new(path: str) -> None:
    if _CONTROL.search(path):
        raise PathRefused(path, CONTROL)
    if _DRIVE.match(path):
        raise PathRefused(path, "An absolute path: use one relative to the company's folder")
    *folders, _ = parts = path.split("/")
    if any(map(is_system_folder, folders)):
        raise PathRefused(path, "A hidden folder of a computer or a server: builds pass over it")
    if letter := next(filter(_is_invisible, path), None):
        raise PathRefused(path, f"The path contains an invisible character ({_name(letter)}): rename it")
    if len(path.encode()) > MAX_NEW_BYTES or max(len(part.encode()) for part in parts) > MAX_NEW_PART_BYTES:
        limits = f"{MAX_NEW_BYTES} bytes, or a part of it longer than {MAX_NEW_PART_BYTES}"
        raise PathRefused(path, f"The path is longer than {limits}: shorten it")


def _is_invisible(letter: str) -> bool:
    return letter in _FILLERS or (unicodedata.category(letter) in _INVISIBLE and not _NEEDED.match(letter))


def _name(letter: str) -> str:
    return unicodedata.name(letter, f"U+{ord(letter):04X}").lower()


def is_utf8(path: str) -> bool:
    """Return whether path can be encoded: names on a disk that are not UTF-8 come as lone surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
