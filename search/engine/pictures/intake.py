"""Uploaded pictures and zips, and their way into a company's folder.

Everything uploaded is hostile until it is stored: each picture is unpacked within limits, opened as a build would open
it, and only then given its place on the shelf.
"""

import contextlib
import logging
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, BinaryIO, cast

from search.engine.durable import BoundedReads
from search.engine.errors import ImageUnreadable, PathRefused, StoreError, StoreUnavailable
from search.engine.pictures.decode import open_image
from search.engine.pictures.folder import SkippedFile
from search.engine.pictures.folders import PictureFolder, PictureShelf
from search.engine.pictures.paths import NOT_UTF8, is_left_by_a_system, new_path

logger = logging.getLogger(__name__)

_CHUNK = 1 << 16
_MAX_DIRECTORY_BYTES = 16 * 2**20  # of a zip's list of entries: zipfile makes objects of all of it at once
_SMALL = 2**20  # bytes: below, no ratio is suspicious

_UTF8_NAME, _ENCRYPTED = 0x800, 0x1  # zip flags
_ENTRY = struct.Struct("<4s4xH18xHHH12x")  # of the list: signature, flags, bytes of the name, of extra fields, comment
_ENTRY_SIGNATURE = b"PK\x01\x02"
_ENTRY_FLAGS = 8  # where the flags are
_LOCAL = struct.Struct("<6xH18xH2x")  # in front of an entry's name and data: flags, bytes of the name
_UNICODE_PATH, _UNKNOWN_FIELD = 0x7075, 0xFFFF  # extra fields: the name in UTF-8; one that nobody reads
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # the others take memory as the zip likes
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """What one upload may hold. Bytes are counted as they are unpacked, whatever the zip declares."""

    file_bytes: int
    max_pixels: int
    total_bytes: int = 2 * 2**30
    entries: int = 20_000
    ratio: int = 200  # of the unpacked to the packed size


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture, or a zip of pictures."""

    name: str
    file: BinaryIO  # seekable


@dataclass(slots=True)
class Intake:
    """What became of an upload."""

    stored: list[str] = field(default_factory=list)  # paths below the folder
    replaced: set[str] = field(default_factory=set)  # those of them that were there before
    refused: list[SkippedFile] = field(default_factory=list)
    passed_over: int = 0  # files that systems have put into zips: nobody meant to upload them


class _Refused(Exception):
    """Something of an upload that is not stored; the message is the reason."""


def take_in(
    uploads: Sequence[Upload], folder: PictureFolder, *, limits: IntakeLimits, location: str = "", replace: bool = False
) -> Intake:
    """Store the pictures of uploads below folder, which is made where it is missing, and tell what became of each.

    location: a folder below folder. replace: pictures that are there already are replaced instead of refused.
    Raises OSError where nothing can be stored in folder at all.
    """
    intake, budget, seen = Intake(), _Budget(limits.total_bytes), set[str]()
    away: StoreUnavailable | None = None  # then nobody waits for it once more with each file
    with folder.shelf(make=True) as shelf:
        for entry in _entries(uploads, limits):
            if entry.packed_bytes is not None and is_left_by_a_system(entry.name):
                intake.passed_over += 1
                continue
            try:
                if away:
                    raise away
                path = _checked_path(entry, location)
                if path in seen:
                    raise _Refused("This name occurs more than once in the upload")
                seen.add(path)
                was_there = _store(entry, path, shelf, limits=limits, budget=budget, replace=replace)
            except (PathRefused, _Refused, ImageUnreadable, OSError, StoreError) as error:
                away = error if isinstance(error, StoreUnavailable) else None
                intake.refused.append(SkippedFile(_printable(entry.name), _reason(error)))
            else:
                intake.stored.append(path)
                intake.replaced |= {path} if was_there else set()
    return intake


# What an upload holds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    open: Callable[[], IO[bytes]]
    packed_bytes: int | None = None  # as declared; None outside zips
    refusal: str = ""


def _entries(uploads: Sequence[Upload], limits: IntakeLimits) -> Iterator[_Entry]:
    for upload in uploads:
        if upload.name.lower().endswith(".zip"):
            yield from _zip_entries(upload, limits)
        else:
            yield _Entry(upload.name, lambda file=upload.file: file)  # type: ignore[misc]


def _zip_entries(upload: Upload, limits: IntakeLimits) -> Iterator[_Entry]:
    try:
        archive = zipfile.ZipFile(cast(IO[bytes], _ZipList(upload.file)))
        infos = [info for info in archive.infolist() if not _entry_name(info).endswith("/")]
        if not infos:
            raise _Refused("The zip is empty: it contains no files")
        if len(infos) > limits.entries:
            raise _Refused(f"The zip contains {len(infos)} files; at most {limits.entries} are accepted per upload")
    except (*_BROKEN_ZIP, OSError) as error:
        yield _refused_entry(upload.name, f"The zip cannot be read: {error}")
    except _Refused as error:
        yield _refused_entry(upload.name, str(error))
    else:
        for info in infos:
            yield _Entry(
                _entry_name(info),
                lambda info=info: _open_entry(archive, info, upload.file),  # type: ignore[misc]
                packed_bytes=info.compress_size,
                refusal=_refusal(info),
            )


class _ZipList(BoundedReads):
    """A zip file whose list of entries is of bounded length, and read although one name of it is no UTF-8."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, limit=_MAX_DIRECTORY_BYTES, refuse=_list_too_large)

    def read(self, size: int | None = None) -> bytes:
        content = super().read(size)
        return _mended(content) if content.startswith(_ENTRY_SIGNATURE) else content


def _mended(entries: bytes) -> bytes:
    """Return the list of entries without what makes zipfile refuse all of it for one: a flag of UTF-8 that is not true,
    extra fields that are cut short."""
    mended, start = bytearray(entries), 0
    while start + _ENTRY.size <= len(entries):
        signature, flags, name_bytes, extra_bytes, comment_bytes = _ENTRY.unpack_from(entries, start)
        if signature != _ENTRY_SIGNATURE:
            break
        extra = start + _ENTRY.size + name_bytes
        if flags & _UTF8_NAME and not _is_utf8(entries[start + _ENTRY.size : extra]):
            struct.pack_into("<H", mended, start + _ENTRY_FLAGS, flags & ~_UTF8_NAME)
        if 4 <= extra_bytes <= len(entries) - extra and not _are_whole(entries[extra : extra + extra_bytes]):
            struct.pack_into("<HH", mended, extra, _UNKNOWN_FIELD, extra_bytes - 4)
        start = extra + extra_bytes + comment_bytes
    return bytes(mended)


def _are_whole(fields: bytes) -> bool:
    while len(fields) >= 4:
        length = int.from_bytes(fields[2:4], "little")
        if length > len(fields) - 4:
            return False
        fields = fields[4 + length :]
    return True


def _open_entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: BinaryIO) -> IO[bytes]:
    """Open an entry whose name in front of its data need not be that of the list, which counts: slashes differ."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL.size)
    if len(header) == _LOCAL.size:
        flags, length = _LOCAL.unpack(header)
        name = file.read(length)
        if flags & _UTF8_NAME and not _is_utf8(name):
            raise _Refused(NOT_UTF8)
        info.orig_filename = name.decode("utf-8" if flags & _UTF8_NAME else "cp437")  # what archive.open compares
    return archive.open(info)


def _refused_entry(name: str, reason: str) -> _Entry:
    return _Entry(name, lambda: contextlib.nullcontext(), refusal=reason)  # type: ignore[arg-type,return-value]


def _entry_name(info: zipfile.ZipInfo) -> str:
    """Return the name as it was meant, with slashes.

    macOS writes UTF-8 without saying so, Windows and WinRAR an extra field, old Windows programs backslashes.
    """
    name = info.orig_filename
    if not info.flag_bits & _UTF8_NAME:
        shown = name.encode("cp437")
        name = _unicode_path(info.extra, shown) or (shown.decode() if _is_utf8(shown) else name)
    return name.replace("\\", "/")


def _unicode_path(extra: bytes, shown: bytes) -> str:
    """Return the name of the extra field that is the UTF-8 of shown, "" where there is none, or one of another name."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        body, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _UNICODE_PATH and body[:5] == struct.pack("<BI", 1, zlib.crc32(shown)) and _is_utf8(body[5:]):
            return body[5:].decode()
    return ""


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refusal(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "A link; these are never stored"
    if kind not in (0, stat.S_IFREG):
        return "Not a regular file"
    if info.flag_bits & _ENCRYPTED:
        return "The file is encrypted"
    if info.compress_type not in _METHODS:
        return "The compression method is not supported: create the zip with Deflate"
    return ""


def _list_too_large() -> Exception:
    return _Refused(f"The list of entries is larger than {_MAX_DIRECTORY_BYTES // 2**20} MB")


def _checked_path(entry: _Entry, location: str) -> str:
    """Return the path below the folder that entry is stored under. Raises _Refused and PathRefused."""
    if entry.refusal:
        raise _Refused(entry.refusal)
    return new_path(entry.name, location=location)


class _Budget:
    """The bytes that an upload may still unpack."""

    def __init__(self, total_bytes: int) -> None:
        self._total = self._left = total_bytes

    def take(self, count: int) -> None:
        if count > self._left:
            self._left = 0
        if self._left == 0:
            raise _Refused(f"The upload is larger than {self._total // 2**20} MB unpacked: upload the rest separately")
        self._left -= count


def _store(
    entry: _Entry, path: str, shelf: PictureShelf, *, limits: IntakeLimits, budget: _Budget, replace: bool
) -> bool:
    """Put the picture under path and return whether one was there before."""
    budget.take(0)
    with shelf.stage() as staged:
        _unpack(entry, staged.file, limits=limits, budget=budget)
        open_image(staged.file, name=path, max_pixels=limits.max_pixels)
        return staged.place(path, replace=replace)


def _unpack(entry: _Entry, target: IO[bytes], *, limits: IntakeLimits, budget: _Budget) -> None:
    size = 0
    try:
        with contextlib.ExitStack() as stack:
            source = entry.open()
            if entry.packed_bytes is not None:
                stack.enter_context(source)
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > limits.file_bytes:
                    raise _Refused(f"The file is larger than {limits.file_bytes / 2**20:g} MB")
                if entry.packed_bytes is not None and size > max(_SMALL, limits.ratio * entry.packed_bytes):
                    raise _Refused(f"The file unpacks to over {limits.ratio} times its size, like a decompression bomb")
                budget.take(len(chunk))
                target.write(chunk)
    except _BROKEN_ZIP as error:
        raise _Refused(f"The entry in the zip is damaged: {error}") from error


def _printable(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _reason(error: Exception) -> str:
    if isinstance(error, StoreError):  # whose words name addresses
        logger.error("%s", error)
        away = isinstance(error, StoreUnavailable)
        return (
            "The object store is unavailable; try again later"
            if away
            else "The object store refuses it; see the server log"
        )
    if isinstance(error, PathRefused):
        return error.reason
    return f"The file cannot be stored: {error.strerror or error}" if isinstance(error, OSError) else str(error)
