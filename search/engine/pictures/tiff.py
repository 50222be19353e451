"""Reads TIFFs with Pillow, kept from what Pillow takes for something else.

tests/engine/pictures/test_tiff.py writes pictures in every layout and byte order: each is read right or refused.
"""

import math
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image, ImagePalette, TiffImagePlugin

from search.engine.errors import ImageUnreadable

MAX_TAG_BYTES = 2**19  # of one list in a TIFF: each entry becomes about 400 bytes of Python objects

Directory = TiffImagePlugin.ImageFileDirectory_v2

_SEPARATE = 2  # planes, one after another
_WHITE_IS_ZERO, _YCBCR = 0, 6  # photometric interpretations
_SIGNED = 2  # sample format
_FULL_SAMPLES = (1, 1)
_PLANES_NOT_SUPPORTED = "This kind of TIFF is not supported: separate planes of such samples"


class TiffFile(TiffImagePlugin.TiffImageFile):
    """The first picture of a TIFF. load() leaves it as it is stored, whatever its orientation.

    Besides what Pillow reads: big-endian BigTIFF, planes of 16 bits without compression, palettes of 8 bits. Raises
    ImageUnreadable for layouts that Pillow would misread.
    """

    is_animated = True  # or Pillow decodes all EXIF directories too, broken or endless ones as well

    @property
    def tag_v2(self) -> Directory:
        return self._directory

    @tag_v2.setter
    def tag_v2(self, directory: Directory) -> None:
        file = cast(BinaryIO, self.fp)
        file.seek(0)
        self._directory = _corrected(directory, file.read(16))

    @property
    def orientation(self) -> Any:
        return self._directory.get(ExifTags.Base.Orientation)

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height as stored, also before load(), when size is what Pillow would turn them into."""
        return self._tile_size

    @property
    def white_is_zero(self) -> bool:
        """Whether samples that Pillow hands on as they are have to be turned into their opposites."""
        return self._directory.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO

    @property
    def bits(self) -> int:
        """How many bits a sample has."""
        return int(self._directory.get(TiffImagePlugin.BITSPERSAMPLE, (1,))[0])

    @property
    def signed(self) -> bool:
        return _SIGNED in self._directory.get(TiffImagePlugin.SAMPLEFORMAT, ())

    def load(self) -> Any:
        if self.tile and self._has_planes_of_16_bits():
            self._load_planes()
        return super().load()

    def load_end(self) -> None:
        self._size = self._tile_size  # Pillow would turn the picture here, also by what XMP says

    def _setup(self) -> None:
        tags = self._directory
        compression = tags.get(TiffImagePlugin.COMPRESSION, 1)
        if TiffImagePlugin.COMPRESSION_INFO.get(compression, "webp") == "webp":  # which Pillow's libtiff lacks
            raise ImageUnreadable(f"TIFF compression {compression} is not supported")
        if tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1) == 1 and TiffImagePlugin.PLANAR_CONFIGURATION in tags:
            del tags[TiffImagePlugin.PLANAR_CONFIGURATION]  # or "L;I" and "P;4" lose what follows the first letter
        try:
            super()._setup()
        except IndexError:  # it has no letter for the last plane
            raise ImageUnreadable(_PLANES_NOT_SUPPORTED) from None
        if self._planar_configuration == _SEPARATE and not self._has_readable_planes():
            raise ImageUnreadable(_PLANES_NOT_SUPPORTED)
        if self.use_load_libtiff:
            self._swap_no_bytes()
        elif self._directory.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == _YCBCR:
            self._require_full_samples()
        if self.palette:
            self._widen_palette()

    def _has_readable_planes(self) -> bool:
        """Return whether separate planes are read as what they are, and not mixed up or left empty."""
        tags = self._directory
        if self.mode == "RGBA" and len(tags.get(TiffImagePlugin.EXTRASAMPLES, ())) != 1:
            return False
        if self.use_load_libtiff:
            return self.mode in ("L", "P", "RGB", "RGBA", "CMYK", "YCbCr")
        return self._has_planes_of_16_bits() or (
            self.bits == 8
            and self._letters() == self.mode != "LAB"
            and not self.white_is_zero
            and tags.get(TiffImagePlugin.FILLORDER, 1) == 1
        )

    def _has_planes_of_16_bits(self) -> bool:
        return (
            self._planar_configuration == _SEPARATE
            and not self.use_load_libtiff
            and self.bits == 16
            and self._letters() == self.mode
            and self.mode in ("RGB", "RGBA", "CMYK")
        )

    def _letters(self) -> str:
        """Return the raw mode of each plane in turn."""
        return "".join(dict.fromkeys(str(cast(Any, tile.args)[0]) for tile in self.tile))

    def _load_planes(self) -> None:
        """Load planes of 16 bits, of which Pillow would take every byte for a sample."""
        file, tags, plane = cast(BinaryIO, self.fp), self._directory, -1
        width, height = self._tile_size
        planes = np.zeros((len(self.mode), height, width), np.uint8)
        for tile in self.tile:
            left, top, right, bottom = cast("tuple[int, int, int, int]", tile.extents)
            plane += (left, top) == (0, 0)
            if plane == len(planes):
                break
            stored = right - left if TiffImagePlugin.STRIPOFFSETS in tags else tags[TiffImagePlugin.TILEWIDTH]
            file.seek(tile.offset)
            data = file.read(2 * stored * (bottom - top))
            if len(data) < 2 * stored * (bottom - top):
                raise ImageUnreadable("The file is incomplete or damaged: it ends within a plane")
            samples = np.frombuffer(data, "<u2" if tags.prefix == b"II" else ">u2").reshape(-1, stored)
            planes[plane, top:bottom, left:right] = samples[:, : right - left] >> 8
        self.im = Image.merge(self.mode, [Image.fromarray(samples) for samples in planes]).im
        self.tile = []
        self.load_end()

    def _swap_no_bytes(self) -> None:
        """Tell Pillow that libtiff gives big-endian numbers in the order of this machine."""
        self.tile = [
            tile._replace(args=(raw_mode.replace("BF", "NF").replace("BS", "NS"), *rest))
            for tile in self.tile
            for raw_mode, *rest in [cast("tuple[Any, ...]", tile.args)]
        ]

    def _require_full_samples(self) -> None:
        if self._directory.get(TiffImagePlugin.YCBCRSUBSAMPLING, (2, 2)) != _FULL_SAMPLES:
            raise ImageUnreadable("This kind of TIFF is not supported: uncompressed YCbCr with less chroma")

    def _widen_palette(self) -> None:
        """Take a palette of values up to 255 for what it is; all others have 16 bits."""
        palette = self._directory[TiffImagePlugin.COLORMAP]
        if max(palette) < 256:
            self.palette = ImagePalette.raw("RGB;L", bytes(palette))


def check_layout(file: BinaryIO, max_pixels: int) -> None:
    """Refuse tiles far larger than the picture, and lists of strips or tiles longer than it needs."""
    tags = _first_directory(file)
    tile = tags.get(TiffImagePlugin.TILEWIDTH, 0), tags.get(TiffImagePlugin.TILELENGTH, 0)
    if tile[0] * tile[1] > max_pixels:
        raise ImageUnreadable(f"Its tiles of {tile[0]} x {tile[1]} have more than the {max_pixels} pixels allowed")
    width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    if TiffImagePlugin.STRIPOFFSETS in tags:
        tile = width, tags.get(TiffImagePlugin.ROWSPERSTRIP, height)
    pieces = 6 * math.ceil(width / tile[0]) * math.ceil(height / tile[1])  # 6: the most planes Pillow reads
    for tag in (TiffImagePlugin.STRIPOFFSETS, TiffImagePlugin.TILEOFFSETS):
        if len(tags._tagdata.get(tag, b"")) > min(8 * pieces, MAX_TAG_BYTES):
            raise ImageUnreadable("The file lists more strips or tiles than its size needs")


def _first_directory(file: BinaryIO) -> Directory:
    file.seek(0)
    header = file.read(16)
    tags = _corrected(Directory(header if header[2] == 43 else header[:8]), header)
    file.seek(tags.next)
    tags.load(file)
    for tag, data in tags._tagdata.items():
        if len(data) > MAX_TAG_BYTES and tags.tagtype[tag] not in (1, 2, 7):  # these stay bytes
            raise ImageUnreadable(f"Tag {tag} of its header has {len(data)} bytes")
    return tags


def _corrected(directory: Directory, header: bytes) -> Directory:
    """Return the directory as that of a big-endian BigTIFF where it is one: Pillow looks for the 43 in one order only.

    header: the first 16 bytes of the file.
    """
    if header.startswith(b"MM\0+"):
        directory._bigtiff = True
        directory.next = int.from_bytes(header[8:16])
    return directory
