"""Opening pictures: real files, small pictures, hostile ones too."""

import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter, TiffImagePlugin

from search.engine.errors import ImageUnreadable
from search.engine.pictures import decode as images
from search.engine.pictures.decode import open_image
from search.engine.pictures.paths import ALLOWED_EXTENSIONS, has_allowed_extension
from tests.support.encodings import (
    BOMBS,
    SAMPLES,
    bmp_rle8,
    chunk,
    encoded,
    plain,
    png,
    png_with,
    progressive_jpeg_with_scans,
    tiff,
)
from tests.support.fakes import BLUE, GREEN, RED, WHITE

# pytest replaces the filters that images.py sets; two tests below look at them in a fresh interpreter.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\..*")

MAX_PIXELS = 1_000_000
GREY = (128, 128, 128)
CORNERS = np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8).repeat(16, axis=0).repeat(32, axis=1)  # [32, 64, 3]


def opened(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS, min_side: int | None = None) -> Image.Image:
    return open_image(BytesIO(data), name=name, max_pixels=max_pixels, min_side=min_side)


def colour_of(data: bytes, name: str) -> tuple[int, int, int]:
    picture = opened(data, name)
    assert picture.mode == "RGB"
    return picture.getpixel((0, 0))


def near(colour: tuple[int, int, int], expected: tuple[int, int, int], tolerance: int = 3) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(colour, expected, strict=True))


def reason_for(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> str:
    with pytest.raises(ImageUnreadable) as refused:
        opened(data, name, max_pixels=max_pixels)
    return str(refused.value)


# What a picture looks like


@pytest.mark.parametrize("extension", ALLOWED_EXTENSIONS)
def test_every_format_opens_as_rgb_from_a_path_and_from_a_stream(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"red.{extension.upper()}"
    plain("RGB", RED).save(path, images.FORMATS[extension])
    from_path = open_image(path, name=path.name, max_pixels=64)
    from_stream = opened(path.read_bytes(), path.name)
    assert from_path.mode == "RGB"
    assert from_path.size == (8, 8)
    assert near(from_path.getpixel((3, 3)), RED)
    assert from_path.tobytes() == from_stream.tobytes()


@pytest.mark.parametrize(
    ("mode", "value", "kind", "expected"),
    [
        ("1", 1, "PNG", WHITE),
        ("1", 1, "BMP", WHITE),
        ("1", 1, "TIFF", WHITE),
        ("L", 100, "PNG", (100, 100, 100)),
        ("L", 100, "JPEG", (100, 100, 100)),
        ("L", 100, "GIF", (100, 100, 100)),
        ("L", 100, "BMP", (100, 100, 100)),
        ("RGBA", (255, 0, 0, 128), "PNG", (255, 127, 127)),
        ("RGBA", (255, 0, 0, 128), "TIFF", (255, 127, 127)),
        ("RGBA", (255, 0, 0, 128), "WEBP", (255, 127, 127)),
        ("RGBA", (255, 0, 0, 0), "PNG", WHITE),
        ("LA", (0, 128), "PNG", (127, 127, 127)),
        ("LA", (0, 128), "TIFF", (127, 127, 127)),
        ("CMYK", (0, 255, 255, 0), "JPEG", RED),
        ("CMYK", (0, 255, 255, 0), "TIFF", RED),
        ("YCbCr", (76, 85, 255), "JPEG", RED),
        ("YCbCr", (76, 85, 255), "TIFF", RED),
        ("LAB", (255, 128, 128), "TIFF", WHITE),
        ("I;16", 0x6464, "PNG", (100, 100, 100)),
        ("I;16", 0x6464, "TIFF", (100, 100, 100)),
        ("I;16B", 0x6464, "TIFF", (100, 100, 100)),
        ("I", 0x6464, "TIFF", (100, 100, 100)),
        ("F", 0.5, "TIFF", (128, 128, 128)),
        ("F", 100.0, "TIFF", (100, 100, 100)),
    ],
)
def test_every_mode_keeps_its_colour(mode: str, value: object, kind: str, expected: tuple[int, int, int]) -> None:
    picture = Image.fromarray(np.full((8, 8), value, ">u2")) if mode == "I;16B" else plain(mode, value)
    extension = next(extension for extension, format_ in images.FORMATS.items() if format_ == kind)
    assert near(colour_of(encoded(picture, kind), f"x.{extension}"), expected)


def test_premultiplied_grey_is_laid_on_white() -> None:
    tags = ((256, 4, 1, 1), (257, 4, 1, 1), (258, 3, 2, 0x80008), (259, 3, 1, 1), (262, 3, 1, 1))
    tags += ((273, 4, 1, 110), (277, 3, 1, 2), (338, 3, 1, 1))
    assert colour_of(tiff(*tags, tail=b"\x00\x80"), "x.tif") == (127, 127, 127)


def test_a_bmp_whose_alpha_is_all_zero_is_opaque() -> None:
    assert colour_of(bmp_with_alpha(b"\0\0\xff\0" * 2), "x.bmp") == RED
    assert colour_of(bmp_with_alpha(b"\0\0\xff\0" + b"\0\0\xff\xff"), "x.bmp") == WHITE


def bmp_with_alpha(pixels: bytes) -> bytes:
    """Return a BMP, [1, 2], of these pixels in blue, green, red and alpha."""
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 56, 2, 1, 1, 32, 3, 8, 0, 0, 0, 0) + masks
    return b"BM" + struct.pack("<IHHI", 78, 0, 0, 70) + header + pixels


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    ramp = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    for kind, name in (("PNG", "x.png"), ("TIFF", "x.tif")):
        levels = np.asarray(opened(encoded(Image.fromarray(ramp), kind), name))
        assert (levels[..., 0].ravel() == np.arange(256)).all()


def test_twelve_bit_grey_fills_the_whole_range() -> None:
    data = tiff(
        *((256, 4, 1, 2), (257, 4, 1, 1), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 86)),
        tail=b"\xff\xf0\x00",
    )
    assert np.asarray(opened(data, "x.tif"))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0, np.nan], [0, 128, 255, 0]),
        ([-1.0, 0.0, 1.0, 1.0], [0, 128, 255, 255]),
        ([0.0, 65535.0, np.inf, -np.inf], [0, 255, 255, 0]),
        ([np.nan] * 4, [0, 0, 0, 0]),
        ([-3e38, 0.0, 3e38, 0.0], [0, 128, 255, 128]),
    ],
)
def test_floating_point_grey_is_normalised(values: list[float], expected: list[int]) -> None:
    picture = Image.fromarray(np.array([values], np.float32))
    levels = np.asarray(opened(encoded(picture, "TIFF"), "x.tif"))[0, :, 0]
    assert levels.tolist() == expected


def test_palette_and_its_transparency_are_applied() -> None:
    picture = plain("P", 0, (2, 1))
    picture.putpalette([*RED, *BLUE])
    picture.putpixel((1, 0), 1)
    for kind, name in (("PNG", "x.png"), ("GIF", "x.gif")):
        shown = opened(encoded(picture, kind, transparency=1), name)
        assert [shown.getpixel((x, 0)) for x in (0, 1)] == [RED, WHITE]
    half = opened(encoded(picture, "PNG", transparency=b"\x80\xff"), "x.png")
    assert half.getpixel((0, 0)) == (255, 127, 127)
    assert half.getpixel((1, 0)) == BLUE


# What is white and transparent


def drawn(shape: str = "white", *, mode: str = "RGBA", ground: str = "white") -> Image.Image:
    """Return a disc on transparency, [60, 80], whose transparent pixels have a colour as well."""
    disc = Image.new("L", (80, 60))
    ImageDraw.Draw(disc).ellipse((20, 10, 60, 50), 255)
    picture = Image.new("RGB", disc.size, ground)
    picture.paste(shape, mask=disc)
    picture.putalpha(disc)
    return picture.convert(mode)


def in_palette(alpha: Image.Image) -> Image.Image:
    picture = alpha.point(lambda value: value // 255).convert("P")
    picture.putpalette([*RED, *WHITE])
    return picture


def sixteen_bits(alpha: Image.Image) -> bytes:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.asarray(alpha).astype(np.uint16) * 257)
    return png((80, 60), 16, 0, pixels=rows, extra=chunk(b"tRNS", b"\0\0"))


DISC = drawn().getchannel("A")
WHITE_DRAWINGS = {
    "rgba.png": encoded(drawn(ground="black"), "PNG"),
    "nearly white.png": encoded(drawn("#f4f6f2"), "PNG"),
    "grey with alpha.png": encoded(drawn(mode="LA"), "PNG"),
    "palette.png": encoded(in_palette(DISC), "PNG", transparency=b"\0"),
    "palette.gif": encoded(in_palette(DISC), "GIF", transparency=0),
    "sixteen bits.png": sixteen_bits(DISC),
    "lossy.webp": encoded(drawn(), "WEBP", quality=80),
    "lossless.webp": encoded(drawn(), "WEBP", lossless=True),
    "alpha.tif": encoded(drawn(), "TIFF"),
    "grey with alpha.tiff": encoded(drawn(mode="LA"), "TIFF"),
}


@pytest.mark.parametrize("name", WHITE_DRAWINGS)
def test_a_white_drawing_on_transparency_is_seen_on_grey(name: str) -> None:
    shown = opened(WHITE_DRAWINGS[name], name)
    assert shown.size == (80, 60)
    assert shown.getpixel((0, 0)) == GREY
    assert near(shown.getpixel((40, 30)), WHITE, 13)


def test_a_white_bmp_with_a_transparent_part_is_seen_on_grey() -> None:
    shown = opened(bmp_with_alpha(b"\xff\xff\xff\0" + b"\xff\xff\xff\xff"), "x.bmp")
    assert [shown.getpixel((x, 0)) for x in (0, 1)] == [GREY, WHITE]


def with_shadow() -> Image.Image:
    shadow = drawn().getchannel("A").filter(ImageFilter.GaussianBlur(6)).point(lambda value: value // 3)
    ground = Image.new("RGBA", shadow.size, "black")
    ground.putalpha(shadow)
    return Image.alpha_composite(ground, drawn())


def with_rounded_corners(picture: Image.Image) -> Image.Image:
    mask = Image.new("L", picture.size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, picture.width - 1, picture.height - 1), 8, 255)
    picture.putalpha(mask)
    return picture


def page_with_a_line() -> Image.Image:
    page = Image.new("RGB", (80, 60), "white")
    ImageDraw.Draw(page).line((10, 30, 70, 30), "black", 2)
    return with_rounded_corners(page)


ON_WHITE = {
    "black": drawn("black"),
    "pale yellow": drawn("#ffffc0"),
    "light grey": drawn("#e8e8e8"),
    "white with a soft shadow": with_shadow(),
    "a photograph with round corners": with_rounded_corners(Image.effect_noise((80, 60), 60).convert("RGB")),
    "a page with round corners and a line": page_with_a_line(),
    "white without a transparent pixel": Image.new("RGBA", (80, 60), "white"),
    "nothing at all": Image.new("RGBA", (80, 60), (255, 255, 255, 0)),
    "hardly anything": Image.new("RGBA", (80, 60), (0, 0, 0, 9)),
}


@pytest.mark.parametrize("name", ON_WHITE)
def test_everything_else_on_transparency_is_laid_on_white(name: str) -> None:
    picture = ON_WHITE[name]
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture)
    np.testing.assert_array_equal(np.asarray(opened(encoded(picture, "PNG"), "x.png")), np.asarray(white))


@pytest.mark.parametrize(
    ("depth", "colour_type", "transparent", "pixels"),
    [
        (1, 0, b"\0\0", b"\0\x00"),
        (2, 0, b"\0\1", b"\0\x40"),
        (4, 0, b"\0\2", b"\0\x20"),
        (8, 0, b"\0\x20", b"\0\x20"),
        (16, 0, b"\x12\x34", b"\0\x12\x34"),
        (8, 2, b"\0\1\0\2\0\3", b"\0\1\2\3"),
        (16, 2, b"\x12\x34" * 3, b"\0" + b"\x12\x34" * 3),
    ],
)
def test_a_png_colour_declared_transparent_is_white_at_every_depth(
    depth: int, colour_type: int, transparent: bytes, pixels: bytes
) -> None:
    data = png((1, 1), depth, colour_type, pixels=pixels, extra=chunk(b"tRNS", transparent))
    assert colour_of(data, "x.png") == WHITE
    assert colour_of(png((1, 1), depth, colour_type, pixels=pixels), "x.png") != WHITE


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_is_taken(kind: str) -> None:
    frames = [plain("RGB", colour) for colour in (RED, GREEN, BLUE)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert near(colour_of(data, f"x.{kind.lower()}"), RED)


def test_the_mpo_of_a_phone_is_a_jpg() -> None:
    data = encoded(plain("RGB", RED), "MPO", save_all=True, append_images=[plain("RGB", BLUE)])
    assert near(colour_of(data, "IMG_0001.JPG"), RED)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95, "subsampling": 0}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_all_eight_orientations_give_the_same_picture(orientation: int, kind: str, options: dict) -> None:
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    stored = Image.fromarray(CORNERS)
    if orientation > 1:
        stored = stored.transpose(undo.get(orientation, images._TURNS[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content, name = encoded(stored, kind, exif=exif, **options), f"x.{kind.lower()}"
    shown = opened(content, name)
    assert shown.size == (64, 32)
    assert images.measure(BytesIO(content), name=name, max_pixels=64 * 32) == (kind, (64, 32))
    assert np.abs(np.asarray(shown).astype(int) - CORNERS).max() <= 6


def test_the_result_carries_nothing_that_could_be_applied_twice() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = opened(encoded(plain("RGB", RED), "JPEG", exif=exif), "x.jpg")
    assert type(shown) is Image.Image
    assert shown.info == {}
    assert not shown.getexif()


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12"]
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_does_not_matter(kind: str, exif: bytes) -> None:
    data = encoded(plain("RGB", RED), kind, exif=exif)
    assert near(colour_of(data, f"x.{kind.lower()}"), RED)


def test_broken_exif_directories_of_a_tiff_do_not_matter() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[34665] = 0x7FFFFFFF
    assert colour_of(encoded(plain("RGB", RED), "TIFF", tiffinfo=tags), "x.tif") == RED


@pytest.mark.parametrize("profile", [b"", b"name\0\0", b"name\0\7junk", b"name\0\0" + zlib.compress(bytes(5_000_000))])
def test_broken_and_huge_colour_profiles_do_not_matter(profile: bytes) -> None:
    assert colour_of(png_with(chunk(b"iCCP", profile)), "x.png") == RED
    assert near(colour_of(encoded(plain("RGB", RED), "JPEG", icc_profile=profile or b"x"), "x.jpg"), RED)


def test_huge_texts_and_broken_extras_of_a_png_do_not_matter() -> None:
    texts = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(50_000_000))) * 40
    assert colour_of(png_with(texts), "x.png") == RED
    assert colour_of(png_with(chunk(b"eXIf", b"II*\0")[:-1] + b"?"), "x.png") == RED


# Smaller on demand


@pytest.mark.parametrize("colour", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    ("size", "min_side", "expected"),
    [
        ((1024, 512), 256, (512, 256)),
        ((1023, 511), 256, (1023, 511)),
        ((2100, 2050), 256, (263, 257)),
        ((100, 100), 256, (100, 100)),
    ],
)
def test_a_jpeg_shrinks_no_further_than_its_shorter_side_allows(
    colour: str, size: tuple[int, int], min_side: int, expected: tuple[int, int]
) -> None:
    picture = plain("RGB", RED, size).convert(colour)
    shown = opened(encoded(picture, "JPEG"), "x.jpg", min_side=min_side, max_pixels=5_000_000)
    assert shown.size == expected
    assert near(shown.getpixel((50, 50)), picture.convert("RGB").getpixel((0, 0)))


def test_other_formats_keep_their_size() -> None:
    data = encoded(plain("RGB", RED, (600, 600)), "PNG")
    assert opened(data, "x.png", min_side=256).size == (600, 600)


# What is refused


def test_an_empty_file_is_refused() -> None:
    assert reason_for(b"", "x.png") == "The file is empty"


def test_a_mislabelled_picture_is_refused_and_named() -> None:
    assert reason_for(encoded(plain("RGB", RED), "JPEG"), "x.png") == "Named .png but contains a JPEG picture"


def test_another_kind_of_file_is_refused() -> None:
    assert reason_for(b"%PDF-1.7 and so on", "x.png") == "Not a picture of an allowed type"
    assert reason_for(encoded(plain("RGB", RED), "ICO"), "x.bmp") == "Not a picture of an allowed type"


@pytest.mark.parametrize("name", ["x.svg", "png", "x.", "", "x.png/y", "x.png\0"])
def test_another_extension_is_refused(name: str) -> None:
    assert "png, jpg, jpeg, gif, bmp, tiff, tif, webp" in reason_for(encoded(plain("RGB", RED), "PNG"), name)


def test_a_missing_file_is_refused_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable, match="No such file or directory") as refused:
        open_image(tmp_path / "secret.png", name="secret.png", max_pixels=MAX_PIXELS)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("extension", ALLOWED_EXTENSIONS)
def test_one_pixel_too_many_is_refused_with_both_numbers(extension: str) -> None:
    data = encoded(plain("RGB", RED), images.FORMATS[extension])
    assert opened(data, f"x.{extension}", max_pixels=64).size == (8, 8)
    reason = reason_for(data, f"x.{extension}", max_pixels=63)
    assert "64 pixels" in reason
    assert "63 allowed" in reason


def bitmap(bits: int, compression: int, masks: tuple[int, int, int] = (0, 0, 0), header_bytes: int = 56) -> bytes:
    header = struct.pack("<IiiHHIIiiIIIII", header_bytes, 2, 1, 1, bits, compression, 8, 0, 0, 0, 0, *masks)
    return b"BM" + struct.pack("<IHHI", 78, 0, 0, 70) + header + bytes(12)


@pytest.mark.parametrize(
    "data",
    [
        bitmap(32, 3, (0x3FF00000, 0xFFC00, 0x3FF)),
        bitmap(16, 3, (0xF00, 0xF0, 0xF)),
        bitmap(64, 0),
        bitmap(32, 4),
        bitmap(32, 5),
        bitmap(32, 6),
        bitmap(24, 0, header_bytes=16),
    ],
)
def test_a_good_bmp_of_an_unsupported_kind_is_not_called_damaged(data: bytes) -> None:
    assert "not supported" in reason_for(data, "x.bmp")


def test_a_png_that_was_changed_for_an_iphone_is_not_called_damaged() -> None:
    data = png((1, 1), 8, 2, pixels=b"\0\1\2\3")
    assert "not supported" in reason_for(data[:8] + chunk(b"CgBI", b"\x50\0\x20\2") + data[8:], "x.png")


def test_a_picture_far_longer_than_wide_is_refused() -> None:
    assert opened(encoded(plain("L", 0, (1, 200)), "PNG"), "x.png").size == (1, 200)
    for size in ((1, 201), (201, 1)):
        assert "200 times" in reason_for(encoded(plain("L", 0, size), "PNG"), "x.png")


def test_a_flipped_bit_in_png_pixels_is_noticed() -> None:
    data = bytearray(encoded(Image.fromarray(CORNERS), "PNG"))
    data[data.index(b"IDAT") + 20] ^= 1
    assert "checksum" in reason_for(bytes(data), "x.png")


def test_running_out_of_memory_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images, "_lay_on_ground", explode)
    assert reason_for(encoded(plain("RGB", RED), "PNG"), "x.png") == "The picture needs more memory than is available"


def test_pictures_decoded_side_by_side_keep_the_limit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine of 64 pixels, 200 allowed: three at once, never four, and each waits until its peers are inside."""
    inside, most, lock, three = 0, 0, threading.Lock(), threading.Barrier(3)
    real = images._lay_on_ground

    def count(picture: Image.Image) -> Image.Image:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        three.wait(30)
        with lock:
            inside -= 1
        return real(picture)

    monkeypatch.setattr(images, "_lay_on_ground", count)
    data = encoded(plain("RGB", RED), "PNG")
    with ThreadPoolExecutor(9) as threads:
        pictures = list(threads.map(lambda _: opened(data, "x.png", max_pixels=200), range(9)))
    assert most == 3
    assert {picture.size for picture in pictures} == {(8, 8)}


def test_a_refused_picture_gives_its_share_back() -> None:
    broken = encoded(plain("RGB", RED), "PNG")[:60]
    for _ in range(10):
        reason_for(broken, "x.png", max_pixels=64)
    assert opened(encoded(plain("RGB", RED), "PNG"), "x.png", max_pixels=64).size == (8, 8)


def assert_opens_or_refuses(data: bytes, name: str) -> None:
    try:
        picture = opened(data, name)
    except ImageUnreadable:
        return
    assert picture.mode == "RGB"
    assert picture.width * picture.height <= MAX_PIXELS


@pytest.mark.parametrize("name", SAMPLES)
def test_a_file_cut_short_anywhere_is_refused_or_still_whole(name: str) -> None:
    data = SAMPLES[name]
    for length in range(0, len(data), max(1, len(data) // 200)):
        assert_opens_or_refuses(data[:length], name)


@pytest.mark.parametrize("name", ["rgba.png", "plain.jpg", "plain.bmp", "raw.tiff", "lzw.tif", "plain.webp"])
def test_half_a_picture_is_refused(name: str) -> None:
    assert "incomplete or damaged" in reason_for(SAMPLES[name][: len(SAMPLES[name]) // 2], name)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", SAMPLES)
def test_damaged_bytes_are_refused_or_make_a_picture(name: str) -> None:
    data = SAMPLES[name]
    places = st.integers(0, len(data) - 1) | st.integers(0, min(200, len(data) - 1))
    damage = st.lists(st.tuples(places, st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)), min_size=1)

    @given(damage=damage)
    def check(damage: list[tuple[int, int]]) -> None:
        damaged = bytearray(data)
        for place, value in damage:
            damaged[place] = value
        assert_opens_or_refuses(bytes(damaged), name)

    check()


@pytest.mark.fuzz
@pytest.mark.parametrize("head", [*images._SIGNATURES, b"RIFF\0\1\0\0WEBPVP8X"])
def test_noise_behind_a_good_signature_is_refused(head: bytes) -> None:
    kind = images._sniff(head)
    extension = next(extension for extension, format_ in images.FORMATS.items() if format_ == kind)

    @given(tail=st.binary(max_size=200))
    def check(tail: bytes) -> None:
        assert_opens_or_refuses(head + tail, f"x.{extension}")

    check()


# Bombs


OPEN_ALL = """
import sys, time
from pathlib import Path
from search.engine.pictures import decode as images
from search.engine.errors import ImageUnreadable

images.MAX_READS = 50_000  # a tenth, so that the endless ones end in a tenth of their 1 to 3 s

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024

before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    started = time.process_time()
    try:
        images.open_image(path, name=path.name, max_pixels=1_000_000)
        raise SystemExit(f"{path.name} was opened")
    except ImageUnreadable:
        pass
    if (seconds := time.process_time() - started) > 2:
        raise SystemExit(f"{path.name} took {seconds} s")
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_bombs_of_every_format_are_refused_soon_and_within_memory(tmp_path: Path) -> None:
    for name, data in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", OPEN_ALL, tmp_path], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert int(run.stdout) < 230  # MB: 200, of which Pillow fills 169 for disposed.gif, and 30 bytes a pixel


def test_progressive_jpegs_with_a_usual_number_of_scans_open() -> None:
    assert opened(progressive_jpeg_with_scans(10), "x.jpg").size == (990, 990)


def test_a_tiff_whose_directories_go_round_opens() -> None:
    tags = ((256, 4, 1, 2), (257, 4, 1, 2), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8))
    assert opened(tiff(*tags, following=8), "x.tif").size == (2, 2)


def test_a_large_run_length_bmp_is_refused() -> None:
    data = bmp_rle8((1500, 1500), b"\1\1\0\0" * 1500)
    assert "2250000 pixels" in reason_for(data, "x.bmp", max_pixels=50_000_000)


def test_a_picture_above_pillows_own_limit_opens_without_a_warning() -> None:
    code = (
        "import sys; from io import BytesIO; from PIL import Image; Image.MAX_IMAGE_PIXELS = 10\n"
        "from search.engine.pictures.decode import open_image\n"
        "data = BytesIO(); Image.new('RGB', (8, 8)).save(data, 'PNG')\n"
        "print(open_image(data, name='x.png', max_pixels=64).size, Image.MAX_IMAGE_PIXELS)"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout.strip(), run.stderr) == ("(8, 8) 10", "")


def test_extensions_count_in_any_case() -> None:
    assert all(has_allowed_extension(name) for name in ("a.png", "a.JPG", "a.b.Tiff", ".webp"))
    assert not any(has_allowed_extension(name) for name in ("png", "a.svg", "a.png.txt", "a.", ""))
