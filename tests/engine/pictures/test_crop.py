"""What callers may name as a part of a picture, and what is decoded of it."""

from contextlib import AbstractContextManager
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from search.engine.errors import CropRefused, ImageUnreadable
from search.engine.pictures.crop import Crop
from search.engine.pictures.decode import open_image
from tests.support.encodings import encoded, jpeg_of_size
from tests.support.fakes import BLUE, GREEN, RED, WHITE

UPPER_RIGHT = Crop(0.5, 0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "crop"),
    [
        ("0,0,1,1", Crop(0, 0, 1, 1)),
        ("0.25,.5,0.5,0.50", Crop(0.25, 0.5, 0.5, 0.5)),
        ("0.7,0.30000000000000004,0.3,0.7", Crop(0.7, 0.30000000000000004, 0.3, 0.7)),
        ("0.9000005,0,0.1,1", Crop(0.9000005, 0, 1 - 0.9000005, 1)),  # what rounding adds is taken away
        ("0.,0,1.000,1", Crop(0, 0, 1, 1)),
    ],
)
def test_four_fractions_are_a_part_of_the_picture(text: str, crop: Crop) -> None:
    assert Crop.parse(text) == crop


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "0,0,1", "0,0,1,1,", ",0,0,1,1", "0,0,1,1,1", "0;0;1;1", "0,0,0,1", "0,0,1,0", "0,0,0.0,1"),
        *("nan,0,1,1", "0,0,inf,1", "0,0,-0.5,1", "-0,0,1,1", "+0,0,1,1", "1e-1,0,0.5,0.5", "0x0,0,1,1", "0_0,0,1,1"),
        *("0, 0, 1, 1", " 0,0,1,1", "0,0,1,1\n", "0,0,1,1\0", "50%,0,1,1", "0,0,\u0661,1", "0,0,1,0,5", "00,0,1,1"),
        *("0.5,0,0.6,1", "0,0.5,1,0.51", "1,0,1,1", "0,1,1,0.0000001", "2,0,1,1", "0,0,1.1,1", "0,0,1,10"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    require_refused(text)


def test_texts_of_any_length_are_refused() -> None:
    for text in ("0," * 10**6, "0." + "1" * 10**6 + ",0,0.1,0.1", "," * 10**6, "9" * 10**6 + ",0,1,1"):
        require_refused(text)


def require_refused(text: str) -> None:
    with pytest.raises(CropRefused) as refused:
        Crop.parse(text)
    assert str(refused.value).startswith("crop must")
    assert len(str(refused.value)) < 200


def quarters(size: tuple[int, int]) -> Image.Image:
    """Return a picture of four colours; from the upper left by rows: red, green, blue, white."""
    width, height = size
    picture = Image.new("RGB", size, RED)
    picture.paste(GREEN, (width // 2, 0, width, height))
    picture.paste(BLUE, (0, height // 2, width, height))
    picture.paste(WHITE, (width // 2, height // 2, width, height))
    return picture


def cropped(data: bytes, name: str, crop: Crop = UPPER_RIGHT, **options: Any) -> Image.Image:
    return open_image(BytesIO(data), name=name, crop=crop, **{"max_pixels": 20_000_000, **options})


@pytest.mark.parametrize(
    ("kind", "name"),
    [("PNG", "x.png"), ("JPEG", "x.jpg"), ("GIF", "x.gif"), ("BMP", "x.bmp"), ("TIFF", "x.tif"), ("WEBP", "x.webp")],
)
def test_the_part_alone_is_left_of_every_format(kind: str, name: str) -> None:
    part = cropped(encoded(quarters((64, 32)), kind), name)
    assert part.size == (32, 16)
    red, green, blue = part.getpixel((16, 8))  # type: ignore[misc]
    assert green > 240 > 10 > max(red, blue)


TURNED_AS_STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", TURNED_AS_STORED)
def test_fractions_are_those_of_the_upright_picture(orientation: int, kind: str) -> None:
    upright, turn = quarters((96, 64)), TURNED_AS_STORED[orientation]
    stored = upright if turn is None else upright.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    part = cropped(encoded(stored, kind, exif=exif), f"x.{kind.lower()}")
    assert part.size == (48, 32)
    red, green, blue = part.getpixel((24, 16))  # type: ignore[misc]
    assert green > 200 > 50 > max(red, blue)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(
    ("crop", "size"),
    [
        (Crop(0, 0, 1, 1), (400, 240)),  # JPEGs shrink by 1, 2, 4 or 8
        (Crop(0.5, 0.5, 0.25, 0.25), (400, 240)),
        (Crop(0.5, 0.5, 0.1, 0.25), (320, 480)),
        (Crop(0.9, 0.9, 0.1, 0.1), (320, 192)),
    ],
)
def test_a_jpeg_shrinks_no_further_than_its_part_allows(crop: Crop, size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.new("RGB", (3200, 1920) if orientation == 1 else (1920, 3200)), "JPEG", exif=exif)
    assert cropped(data, "x.jpg", crop, min_side=220).size == size


class Passed(Exception):
    pass


class Closed:
    def pass_through(self, **_: int) -> AbstractContextManager[None]:
        raise Passed


def test_a_part_of_too_few_pixels_is_refused_before_anything_is_decoded() -> None:
    data = jpeg_of_size(3000, 100)
    with pytest.raises(CropRefused, match=r"^crop leaves 30 x 15 pixels of 3000 x 100: at least 16 x 16 are needed$"):
        cropped(data, "x.jpg", Crop(0, 0, 0.01, 0.15), gate=Closed())
    with pytest.raises(CropRefused):
        cropped(data, "x.jpg", Crop(0, 0, 1e-30, 1), gate=Closed())
    with pytest.raises(ImageUnreadable) as reached:
        cropped(data, "x.jpg", Crop(0, 0, 0.01, 0.16), gate=Closed())
    assert isinstance(reached.value.__cause__, Passed)


def test_all_of_a_small_picture_is_not_too_small() -> None:
    assert cropped(encoded(quarters((8, 40)), "PNG"), "x.png", Crop(0, 0, 1, 1)).size == (8, 40)


def test_limits_are_those_of_the_whole_picture() -> None:
    with pytest.raises(ImageUnreadable, match="more than the 4999 allowed"):
        cropped(encoded(quarters((100, 50)), "PNG"), "x.png", max_pixels=4999)
