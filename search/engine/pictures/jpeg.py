"""Reads JPEGs with Pillow, also those without their end marker and with segments that are too short for their kind."""

import os
import random
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO, cast

from PIL.JpegImagePlugin import JpegImageFile

from search.engine.errors import ImageUnreadable

_END = b"\xff\xd9"
# This takes the place of any data that is missing, also behind a lone 0xff and the restart marker that is waited for.
_NOISE = b"\0" + b"".join(
    bytes((*random.Random(number).choices(range(255), k=64), 0xFF, 0xD0 + number % 8))  # noqa: S311
    for number in range(16)
)
_PADDING = bytes(16)  # at the end of a file whose copy was cut short: no data, although it decodes to something
_SCAN = 0xDA
_WITHOUT_BODY = {0x01, *range(0xD0, 0xD9)}
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_READABLE_FRAMES = {0xC0, 0xC1, 0xC2, 0xC9, 0xCA}  # the others are lossless or hierarchical
_ESSENTIAL = {0xE0: (b"JFIF\0", 14), 0xE1: (b"Exif\0\0", 14), 0xEE: (b"Adobe", 12)}  # and bytes they have at least


class JpegFile(JpegImageFile):
    """A JPEG, which need not have its end marker where all of its data is there."""

    _tail = _END
    _ended = False

    def load(self) -> Any:
        tile, file = self.tile, cast(BinaryIO, self.fp)
        try:
            loaded = super().load()
            if self._ended:
                self._require_all_data(tile, file)
        except OSError:
            if any(marker in _FRAMES - _READABLE_FRAMES for marker, _ in _segments(file)):
                raise ImageUnreadable("This kind of JPEG is not supported: lossless or hierarchical") from None
            raise
        return loaded

    def load_read(self, read_bytes: int) -> bytes:
        file = cast(BinaryIO, self.fp)
        if (data := file.read(read_bytes)) or self._ended:
            return data
        self._ended = True
        file.seek(-min(len(_PADDING), file.seek(0, os.SEEK_END)), os.SEEK_END)
        return b"" if file.read() == _PADDING else self._tail

    def _require_all_data(self, tile: Any, file: BinaryIO) -> None:
        """Refuse a file that is cut short: it lacks scans, or another tail gives it another picture."""
        if not _has_all_scans(file, [layer[0] for layer in self.layer]):
            raise ImageUnreadable("The file is incomplete or damaged: it ends before its last scan")
        self._ended = False
        pixels = self.tobytes()
        self.tile, self.fp, self._tail = tile, file, _NOISE + _END
        super().load()
        self._ended = False
        if self.tobytes() != pixels:
            raise ImageUnreadable("The file is incomplete or damaged: it ends within its data")


def read_header(file: BinaryIO) -> JpegFile:
    """Return the JPEG, not yet decoded. Raises ImageUnreadable, and what Pillow raises."""
    try:
        return JpegFile(file)
    except (SyntaxError, IndexError, struct.error):
        return JpegFile(_essential(file))


def _has_all_scans(file: BinaryIO, components: list[int]) -> bool:
    """Return whether the scans bring every coefficient of every component to its last bit."""
    refined: dict[int, set[int]] = {component: set() for component in components}
    *_, (_, first) = _segments(file)
    for scan in (first, *(found[2:20] for found in file.read().split(b"\xff\xda")[1:])):
        count = scan[0] if scan else 0
        start, end, precision = scan[1 + 2 * count :][:3] if len(scan) > 3 + 2 * count else (0, -1, 1)
        for component in scan[1 : 1 + 2 * count : 2] if not precision & 15 else ():
            refined.setdefault(component, set()).update(range(start, end + 1))
    return all(len(coefficients) == 64 for coefficients in refined.values())


def _essential(file: BinaryIO) -> BytesIO:
    """Return the JPEG without the segments that alter nothing, and those that are too short to."""
    kept = BytesIO()
    kept.write(b"\xff\xd8")
    for marker, body in _segments(file):
        name, least = _ESSENTIAL.get(marker, (b"", 0))
        if (0xE0 <= marker <= 0xEF or marker == 0xFE) and not (name and body.startswith(name) and len(body) >= least):
            continue
        kept.write(bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2) + body)
    kept.write(file.read())
    kept.seek(0)
    return kept


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the marker and the body of each segment up to the first scan, behind which file is then."""
    file.seek(2)
    while byte := file.read(1):
        if byte != b"\xff":
            continue
        while (byte := file.read(1)) == b"\xff":
            pass
        marker = byte[0] if byte else 0
        if marker == 0 or marker in _WITHOUT_BODY:
            continue
        length = int.from_bytes(file.read(2))
        yield marker, file.read(max(0, length - 2))
        if marker == _SCAN:
            return
