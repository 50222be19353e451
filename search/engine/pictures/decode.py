"""How a picture file becomes RGB pixels.

Every file is hostile until it is decoded. One decode takes at most about 32 bytes a pixel of max_pixels, the file
itself once or twice, and a constant 200 MB (see open_image). How many are decoded at a time, a gate decides.
"""

import os
import re
import warnings
import zlib
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from search.engine.errors import CropRefused, DecoderBusy, ImageUnreadable, StoreError
from search.engine.pictures import jpeg, tiff
from search.engine.pictures.crop import Crop
from search.engine.pictures.gates import ONE_LARGE, Gate
from search.engine.pictures.paths import FORMATS, TYPE_NOT_ALLOWED, extension, has_allowed_extension

MAX_RATIO = 200  # of the sides: the shorter is later enlarged to 256, and the longer with it
MAX_READS = 500_000  # of small pieces, from Python, 1 to 3 s: ends endless headers and runs
MAX_WHOLE_FILE = 256 * 2**20  # bytes, of the formats that are read whole
MAX_FULL_SCANS = 40  # of a progressive JPEG of max_pixels; a real one has about 10, each takes 1 ns a pixel
MAX_RLE_PIXELS = 2_000_000  # Pillow unpacks a run-length BMP in Python, 0.6 us a pixel

GROUND_OF_WHITE = "#808080"  # under drawings that would be blank on white

_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
# The readers are called directly, because Image.open would warn above 89 million pixels, refuse above 179
# and take a phone's MPO for another format. That limit, Image.MAX_IMAGE_PIXELS, belongs to the whole process
# and stays as it is: in the GIF, TIFF and WebP readers it stops what they allocate before we see a size.
_READERS: dict[str, Any] = {
    "PNG": PngImageFile,
    "JPEG": jpeg.read_header,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": tiff.TiffFile,
    "WEBP": WebPImageFile,
}
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LAID_DOWN = {_TURNS[number] for number in (5, 6, 7, 8)}  # width and height change places

_SEEN = 16  # of 255: what differs so much can be seen
_MOSTLY_BLANK = 0.02  # of the pixels of a drawing can be seen
_LOOKED_AT = 512  # rows and columns of a drawing, evenly spread

# What Pillow says of files that may well be good.
_UNSUPPORTED = re.compile(
    r"unknown (pixel|raw) mode|samples per pixel|not yet supported|cannot handle \d|^Unsupported BMP|not available"
)

# Once and for all: warnings.catch_warnings is not safe between threads. What matters is raised as an error.
warnings.filterwarnings("ignore", module=r"PIL\.")


def open_image(
    source: Path | BinaryIO,
    *,
    name: str,
    max_pixels: int,
    min_side: int | None = None,
    crop: Crop | None = None,
    gate: Gate = ONE_LARGE,
) -> Image.Image:
    """Return the picture in source as RGB, upright, on white, its first frame if it has several.

    A nearly white drawing on transparency, which would be blank on white, is on mid-grey.

    name: its extension must be allowed and agree with the content. source: a seekable file is read from its
    start and left open. With min_side a JPEG may come back smaller, its shorter side still at least min_side:
    many times faster. With crop it is that part of the upright picture, and min_side means the part's shorter side.
    The result carries no metadata, so nothing can be applied twice.
    TIFF, GIF and WebP are never larger than Pillow's own 179 million pixels, whatever max_pixels says.
    Raises ImageUnreadable, whatever is wrong; the message is the reason, without the path; CropRefused where the part
    has too few pixels; StoreError, where it is read from one; and what the gate raises.
    """
    try:
        with _opened(source) as file:
            picture = _read_header(_MeteredFile(file), _check_kind(file, name), max_pixels)
            pixels = picture.width * picture.height
            if crop:
                crop.require_pixels(_upright_size(picture))
            if min_side:
                picture.draft(None, _draft_size(picture, min_side, crop))
            with gate.pass_through(pixels=pixels, decoded=picture.width * picture.height, limit=max_pixels):
                picture.load()
                upright = _turn_upright(_lay_on_ground(picture), picture)
                return upright.crop(crop.box(upright.size)) if crop else upright
    except (ImageUnreadable, CropRefused, DecoderBusy, StoreError):
        raise
    except Exception as error:  # Pillow raises a dozen unrelated types on broken files, assertions too
        raise ImageUnreadable(_reason(error)) from error


def measure(source: BinaryIO, *, name: str, max_pixels: int) -> tuple[str, tuple[int, int]]:
    """Return the format of the picture in source, and its width and height as it is shown, by its header alone.

    name: its extension must agree with the content. Raises ImageUnreadable and
    StoreError.
    """
    try:
        kind = _check_kind(source, name)
        return kind, _upright_size(_read_header(_MeteredFile(source), kind, max_pixels))
    except (ImageUnreadable, StoreError):
        raise
    except Exception as error:  # as in open_image
        raise ImageUnreadable(_reason(error)) from error


def _upright_size(picture: Image.Image) -> tuple[int, int]:
    """Return width and height of a picture, not yet decoded, as it is shown."""
    width, height = picture.stored_size if isinstance(picture, tiff.TiffFile) else picture.size
    return (height, width) if _turn(picture) in _LAID_DOWN else (width, height)


def _draft_size(picture: Image.Image, min_side: int, crop: Crop | None) -> tuple[int, int]:
    """Return how large a picture must at least be, as it is stored, for what is wanted of it."""
    width, height = crop.whole_size(min_side) if crop else (min_side, min_side)
    return (height, width) if _turn(picture) in _LAID_DOWN else (width, height)


def _opened(source: Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    return source.open("rb") if isinstance(source, Path) else nullcontext(source)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"The picture is too large: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"The file cannot be read: {error.strerror}"
    if isinstance(error, MemoryError):
        return "The picture needs more memory than is available"
    if _UNSUPPORTED.search(str(error)):
        return f"This kind of picture is not supported: {error}"
    # A cause, or another type, means a stumble over nonsense, whose text ("256") says nothing to people.
    told = isinstance(error, OSError | EOFError | SyntaxError | ValueError) and not error.__cause__
    return f"The file is incomplete or damaged: {error}" if told else "The file is incomplete or damaged"


def _check_kind(file: BinaryIO, name: str) -> str:
    """Return the format of the file, refused unless it is the one that its name promises."""
    if not has_allowed_extension(name):
        raise ImageUnreadable(TYPE_NOT_ALLOWED)
    file.seek(0)
    head = file.read(12)
    if not head:
        raise ImageUnreadable("The file is empty")
    kind = _sniff(head)
    if kind is None:
        raise ImageUnreadable("Not a picture of an allowed type")
    promised = extension(name)
    if kind != FORMATS[promised]:
        raise ImageUnreadable(f"Named .{promised} but contains a {kind} picture")
    return kind


def extension_of(head: bytes) -> str:
    """Return the extension that a file which begins like this should have; "" where it is no picture of ours.

    head: at least 12 bytes.
    """
    kind = _sniff(head)
    return next((ending for ending, promised in FORMATS.items() if promised == kind), "")


def _sniff(head: bytes) -> str | None:
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    return next((kind for signature, kind in _SIGNATURES.items() if head.startswith(signature)), None)


class _MeteredFile:
    """A file that refuses the picture after MAX_READS reads: Pillow walks headers and runs byte by byte."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._reads_left = MAX_READS

    def read(self, size: int = -1) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise ImageUnreadable("The file is damaged: its header or data never ends")
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _read_header(metered: _MeteredFile, kind: str, max_pixels: int) -> Image.Image:
    """Return the picture, not yet decoded, when its header keeps all limits."""
    file = cast(BinaryIO, metered)
    if kind in ("PNG", "JPEG", "WEBP") and file.seek(0, os.SEEK_END) > MAX_WHOLE_FILE:
        raise ImageUnreadable(f"The {kind} file is larger than {MAX_WHOLE_FILE} bytes")
    if kind == "TIFF":
        tiff.check_layout(file, max_pixels)
    if kind == "PNG":
        file = _essential_png(file)
    file.seek(0)
    picture: Image.Image = _READERS[kind](file)
    _check_size(picture, max_pixels)
    _prepare(picture, file, max_pixels)
    return picture


def _check_size(picture: Image.Image, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageUnreadable(f"{width} x {height} is {width * height} pixels, more than the {max_pixels} allowed")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ImageUnreadable(f"{width} x {height}: one side is more than {MAX_RATIO} times the other")


def _prepare(picture: Image.Image, file: BinaryIO, max_pixels: int) -> None:
    """Refuse or mend what is particular to one format, before decoding."""
    pixels = picture.width * picture.height
    if isinstance(picture, PngImageFile):
        _scale_transparency(picture, file)
    elif isinstance(picture, BmpImageFile) and picture.tile[0].codec_name == "bmp_rle":
        if pixels > MAX_RLE_PIXELS:
            raise ImageUnreadable(f"A run-length BMP of {pixels} pixels, more than the {MAX_RLE_PIXELS} allowed")
    elif picture.info.get("progressive"):
        position = file.tell()
        file.seek(0)
        scans = file.read().count(b"\xff\xda")
        file.seek(position)
        if scans * pixels > MAX_FULL_SCANS * max_pixels:
            raise ImageUnreadable(f"A progressive JPEG of {scans} scans, too many for {pixels} pixels")


def _essential_png(file: BinaryIO) -> BytesIO:
    """Return the PNG in file without texts, profiles, animation and private chunks, good, huge or broken."""
    file.seek(0)
    kept = BytesIO()
    kept.write(file.read(8))
    while len(header := file.read(8)) == 8:
        length, kind = int.from_bytes(header[:4]), header[4:]
        if kind == b"CgBI":
            raise ImageUnreadable("This kind of PNG is not supported: one that Xcode has changed for an iPhone")
        if kind not in _PNG_CHUNKS:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        body, checksum = file.read(length), file.read(4)
        if checksum == zlib.crc32(body, zlib.crc32(kind)).to_bytes(4):
            kept.write(header + body + checksum)
        elif kind != b"eXIf":
            raise ImageUnreadable(f"The file is incomplete or damaged: wrong checksum in {kind.decode()}")
        if kind == b"IEND":
            break
    return kept


def _scale_transparency(picture: PngImageFile, file: BinaryIO) -> None:
    """Bring the transparent colour from the file's bit depth to the 8 bits that Pillow made of the pixels."""
    transparent = picture.info.get("transparency")
    file.seek(24)
    depth = file.read(1)[0]
    if picture.mode == "L" and isinstance(transparent, int):
        picture.info["transparency"] = transparent * 255 // (2**depth - 1)
    elif picture.mode == "RGB" and depth == 16 and transparent:
        picture.info["transparency"] = tuple(level >> 8 for level in transparent)


def _lay_on_ground(picture: Image.Image) -> Image.Image:
    """Return the decoded picture as RGB, in a new image without its metadata; RGB is shared, not copied."""
    picture = _in_8_bits(picture)
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode == "RGB" and not picture.has_transparency_data:
        return _without_metadata(picture)
    layer = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    if picture.format == "BMP" and layer.mode == "RGBA" and layer.getextrema()[-1] == (0, 0):
        layer = layer.convert("RGB")  # many programs leave the alpha of a BMP at zero and mean opaque
    if layer.mode == "RGB":
        return _without_metadata(layer)
    on_white = _lay_on(layer, "white")
    return _lay_on(layer, GROUND_OF_WHITE) if _is_blank(on_white, layer) else on_white


def _lay_on(layer: Image.Image, colour: str) -> Image.Image:
    canvas = Image.new("RGB", layer.size, colour)
    canvas.paste(layer, mask=layer)
    return canvas


def _is_blank(on_white: Image.Image, layer: Image.Image) -> bool:
    """Return whether what is drawn on transparency, in white or nearly, cannot be seen on white.

    It must be there (alpha), and hardly any of it may differ from white on white: the soft shadow of a white product
    does, and so does a black line. layer: RGBA.
    """
    size = (min(layer.width, _LOOKED_AT), min(layer.height, _LOOKED_AT))
    alpha = np.asarray(layer.getchannel("A").resize(size, Image.Resampling.NEAREST))  # [height, width]
    if alpha.min() == 255:
        return False
    drawn = alpha >= _SEEN
    seen = np.asarray(on_white.resize(size, Image.Resampling.NEAREST)).min(axis=2) <= 255 - _SEEN
    return bool(drawn.any() and np.count_nonzero(seen & drawn) < _MOSTLY_BLANK * np.count_nonzero(drawn))


def _without_metadata(picture: Image.Image) -> Image.Image:
    bare = picture._new(picture.im)
    bare.info.clear()
    return bare


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """Return grey of 16 and 32 bits, of floating point and with a sign as L or LA, scaled (Pillow would clip)."""
    if isinstance(picture, tiff.TiffFile) and (picture.mode in ("I", "F") or picture.signed or picture.white_is_zero):
        return _tiff_grey_to_8_bits(picture)
    if not picture.mode.startswith("I;16"):
        return picture
    values = np.asarray(picture)  # uint16 [height, width]
    levels = (values >> ((picture.bits if isinstance(picture, tiff.TiffFile) else 16) - 8)).astype(np.uint8)
    grey = Image.fromarray(levels)
    transparent = picture.info.get("transparency")
    if transparent is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _tiff_grey_to_8_bits(picture: tiff.TiffFile) -> Image.Image:
    """Return grey of a TIFF as L, of the type and the direction that its header says."""
    if picture.mode in ("1", "L") and not picture.signed:
        return picture  # turned already
    values = np.asarray(picture)  # [height, width]
    usual: tuple[float, ...] = (255, 65535)
    if picture.mode == "F":
        usual = (1, 255, 65535)
    elif picture.signed and picture.bits < 32:
        values = values.view(np.int8) if picture.bits == 8 else values
        usual = (127,) if picture.bits == 8 else (255, 32767)
    elif picture.mode == "I" and not picture.signed:
        values = values.view(np.uint32)  # which Pillow hands on as if it had a sign
        usual = (255, 65535, 2**32 - 1) if values.max() >= 2**31 else usual  # else counts of something: see _stretch
    levels = _stretch(values, usual).astype(np.uint8)
    return Image.fromarray(255 - levels if picture.white_is_zero else levels)


def _stretch(values: np.ndarray, usual: tuple[float, ...]) -> np.ndarray:
    """Return values as 0..255. White is the first of the usual ones that holds them all; values beyond these or below
    zero are taken from their own minimum to their maximum."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low >= 0:
        low, high = 0.0, next((white for white in usual if high <= white), high)
    scale = 255 / ((high - low) or 1)
    with np.errstate(all="ignore"):
        grey = values.astype(np.float32) * np.float32(scale) - np.float32(low * scale)
    return np.clip(np.nan_to_num(grey, copy=False), 0, 255).round()


def _turn_upright(canvas: Image.Image, picture: Image.Image) -> Image.Image:
    """Return canvas turned as the EXIF, or the TIFF, of picture says."""
    turn = _turn(picture)
    return canvas if turn is None else canvas.transpose(turn)


def _turn(picture: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(_orientation(picture))
    except Exception:  # broken EXIF is no reason to refuse a good picture
        return None


def _orientation(picture: Image.Image) -> int:
    """Return the orientation, whatever its type. That of XMP does not count: programs leave it behind that have turned
    the pixels, and browsers pass it over."""
    if isinstance(picture, tiff.TiffFile):
        found, little = picture.orientation, picture.tag_v2.prefix == b"II"
    else:
        exif = Image.Exif()
        exif.load(picture.info.get("exif") or b"")
        found, little = exif.get(ExifTags.Base.Orientation), exif.endian == "<"
    if isinstance(found, tuple):
        found = found[0]
    if isinstance(found, bytes):
        return int.from_bytes(found, "little" if little else "big")
    return int(found or 1)
