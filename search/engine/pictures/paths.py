"""What the path of a picture may be: relative to its company's folder, with forward slashes.

Two rules, because pictures that lie in a folder already keep their names, whatever these are:

- require_path: the least that every part of the service needs, to index a picture, answer with it and archive it.
- require_new_path: what a picture may be called that is put or uploaded now: a name that is short enough for every
  database and file system, and reads as what it is. White space stays as it came: cameras and people put it anywhere.
"""

import re
import unicodedata

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

RESOURCE_FORKS = "__MACOSX"
_DRIVE = re.compile("[A-Za-z]:")
_CONTROL = re.compile("[\0-\x1f\x7f-\x9f]")
_MISLEADING = re.compile("[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")  # breaks of lines, directions of writing


def extension(name: str) -> str:
    """Return what follows the last dot of name, in lower case; "" where there is none."""
    _, dot, ending = name.rpartition(".")
    return ending.lower() if dot else ""


def has_allowed_extension(name: str) -> bool:
    """Return whether name ends in one of ALLOWED_EXTENSIONS, in any case."""
    return extension(name) in FORMATS


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


def require_new_path(path: str) -> None:
    """Raise PathRefused unless a picture may be given this path now."""
    require_path(path)
    if _CONTROL.search(path):
        raise PathRefused(path, CONTROL)
    if _DRIVE.match(path):
        raise PathRefused(path, "An absolute path: use one relative to the company's folder")
    if f"/{RESOURCE_FORKS}/" in f"/{path}":
        raise PathRefused(path, "A hidden file added by macOS")
    if found := _MISLEADING.search(path):
        letter = unicodedata.name(found[0]).lower()
        raise PathRefused(path, f"The path contains an invisible character ({letter}): rename it")
    parts = path.encode().split(b"/")
    if len(path.encode()) > MAX_NEW_BYTES or max(map(len, parts)) > MAX_NEW_PART_BYTES:
        limits = f"{MAX_NEW_BYTES} bytes, or a part of it longer than {MAX_NEW_PART_BYTES}"
        raise PathRefused(path, f"The path is longer than {limits}: shorten it")


def is_utf8(path: str) -> bool:
    """Return whether path can be encoded: names on a disk that are not UTF-8 come as lone surrogates."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
