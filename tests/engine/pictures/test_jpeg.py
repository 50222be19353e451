"""JPEGs as cameras, phones and careless programs write them, and such as are cut short."""

import struct
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search.engine.errors import ImageUnreadable
from search.engine.pictures.decode import open_image
from tests.support.encodings import encoded
from tests.support.tiffs import tiff_file

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)).resize((70, 50))
JPEG = encoded(NOISE, "JPEG", quality=90)
WAYS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 1},
    "progressive restarts": {"progressive": True, "restart_marker_rows": 1},
}


def opened(data: bytes, **options: Any) -> np.ndarray:
    return np.asarray(open_image(BytesIO(data), name="x.jpg", max_pixels=100_000, **options)).astype(int)


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def with_segment(data: bytes, extra: bytes) -> bytes:
    return data[:20] + extra + data[20:]  # behind SOI and JFIF


# Without an end


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("way", WAYS)
def test_a_jpeg_that_lacks_its_end_marker_alone_is_whole(mode: str, way: str) -> None:
    data = encoded(NOISE.convert(mode), "JPEG", **WAYS[way])
    for cut in (data[:-1], data[:-2]):
        assert (opened(cut) == opened(data)).all()
        assert (opened(cut, min_side=20) == opened(data, min_side=20)).all()


@pytest.mark.parametrize("way", WAYS)
def test_a_jpeg_that_lacks_more_is_refused(way: str) -> None:
    data = encoded(NOISE, "JPEG", **WAYS[way])
    for length in range(0, len(data) - 20, 7):
        with pytest.raises(ImageUnreadable):
            opened(data[:length])


@pytest.mark.parametrize("way", WAYS)
def test_a_jpeg_that_a_broken_copy_has_filled_up_with_zeros_is_refused(way: str) -> None:
    data = encoded(NOISE, "JPEG", **WAYS[way])
    with pytest.raises(ImageUnreadable, match="truncated"):
        opened(data[: len(data) // 2] + bytes(len(data)))


def test_what_follows_the_end_marker_does_not_matter() -> None:
    assert (opened(JPEG + bytes(100)) == opened(JPEG)).all()
    assert (opened(JPEG + JPEG[: len(JPEG) // 2]) == opened(JPEG)).all()


# Segments


PHOTOSHOP = b"Photoshop 3.0\0"
NAMES = [b"JFIF\0", b"JFXX\0", b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0", b"MPF\0", b"Adobe"]
CUT = [PHOTOSHOP, PHOTOSHOP + b"8BIM", PHOTOSHOP + b"8BIM\3\xed", PHOTOSHOP + b"8BIM\3\xed\0\0"]


@pytest.mark.parametrize("place", [*range(0xE0, 0xF0), 0xFE])
@pytest.mark.parametrize("name", [b"", *NAMES, *CUT], ids=repr)
def test_a_segment_that_is_too_short_for_its_kind_does_not_matter(place: int, name: bytes) -> None:
    extra = segment(place, name)
    assert (opened(with_segment(JPEG, extra)) == opened(JPEG)).all()
    assert (opened(JPEG[:2] + extra + JPEG[20:]) == opened(JPEG)).all()  # instead of JFIF


def test_what_matters_is_kept_beside_a_segment_that_is_too_short() -> None:
    ink = encoded(NOISE.convert("CMYK"), "JPEG")
    red_green_blue = encoded(NOISE, "JPEG", keep_rgb=True)  # by its Adobe segment alone
    exif = encoded(NOISE, "JPEG", exif=b"Exif\0\0" + tiff_file({274: (3, [3])}, [b""]))
    for data in (ink, red_green_blue, exif):
        assert (opened(data[:2] + segment(0xE2, b"ICC_PROFILE\0") + data[2:]) == opened(data)).all()
    assert not (opened(exif) == opened(encoded(NOISE, "JPEG"))).all()


# Orientation


@pytest.mark.parametrize("end", "<>")
@pytest.mark.parametrize("kind", [1, 3, 4, 7])
@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 1), (8, 3)])
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_turned_as_its_exif_says_with_a_number_of_any_type(
    end: str, kind: int, orientation: int, turns: int, format_: str
) -> None:
    exif = b"Exif\0\0" + tiff_file({274: (kind, [orientation])}, [b""], end=end)
    stored = Image.fromarray(np.rot90(np.asarray(NOISE), turns))
    data = encoded(stored, format_, exif=exif, **({"lossless": True} if format_ == "WEBP" else {}))
    shown = open_image(BytesIO(data), name=f"x.{format_.lower()}", max_pixels=10_000)
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(NOISE)).mean() < 6


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_an_orientation_in_xmp_alone_does_not_count(format_: str) -> None:
    data = encoded(NOISE, format_, xmp=XMP)
    if format_ == "JPEG":
        data = JPEG[:2] + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP) + JPEG[2:]
    shown = open_image(BytesIO(data), name=f"x.{format_.lower()}", max_pixels=10_000)
    assert shown.size == (70, 50)


# Kinds that are not read


@pytest.mark.parametrize("frame", [0xC3, 0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF])
def test_a_lossless_or_hierarchical_jpeg_is_not_called_damaged(frame: int) -> None:
    with pytest.raises(ImageUnreadable, match="not supported"):
        opened(JPEG.replace(b"\xff\xc0", bytes((0xFF, frame))))


@pytest.mark.parametrize(("place", "value"), [(4, 12), (4, 16), (9, 2)])
def test_a_jpeg_of_more_bits_or_other_layers_is_not_called_damaged(place: int, value: int) -> None:
    data = bytearray(JPEG)
    data[data.index(b"\xff\xc0") + place] = value
    with pytest.raises(ImageUnreadable, match="not supported"):
        opened(bytes(data))
