"""What counts as a uniform border of a picture, on drawn ones."""

from io import BytesIO
from itertools import product

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from search.engine.pictures.borders import inside_borders
from tests.support.encodings import encoded

BLACK, WHITE, GREY = (0, 0, 0), (255, 255, 255), (128, 130, 126)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return soft noise in all colours, as varied at its edges as inside."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def framed(
    picture: Image.Image, size: tuple[int, int], at: tuple[int, int], colour: tuple[int, int, int]
) -> Image.Image:
    page = Image.new("RGB", size, colour)
    page.paste(picture, at)
    return page


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    return Image.open(BytesIO(encoded(picture, "JPEG", quality=quality))).convert("RGB")


def screenshot(ground: tuple[int, int, int], ink: tuple[int, int, int]) -> Image.Image:
    """Return a phone's screen: clock, title and buttons around a photograph at 0, 330 to 540, 790."""
    screen = framed(photograph(540, 460), (540, 1170), (0, 330), ground)
    drawing = ImageDraw.Draw(screen)
    for at, text, size in (((30, 18), "12:31", 26), ((420, 18), "5G 87%", 22), ((30, 80), "< Photos", 30)):
        drawing.text(at, text, fill=ink, font=ImageFont.load_default(size))
    for left in (60, 180, 300, 420):
        drawing.ellipse((left, 1080, left + 45, 1125), outline=ink, width=4)
    return screen


def require_near(
    box: tuple[int, int, int, int] | None, expected: tuple[int, int, int, int], size: tuple[int, int]
) -> None:
    """Require that no border is left and next to nothing of the inside is lost."""
    assert box is not None
    for edge, wanted, inwards, side in zip(box, expected, (1, 1, -1, -1), size * 2, strict=True):
        assert -1 <= (edge - wanted) * inwards <= 1 + side / 100


@pytest.mark.parametrize("quality", [95, 30])
@pytest.mark.parametrize("colour", [BLACK, WHITE, GREY, (200, 30, 40)])
def test_the_bars_of_a_letterbox_are_borders(colour: tuple[int, int, int], quality: int) -> None:
    wide = as_jpeg(framed(photograph(400, 300), (640, 300), (120, 0), colour), quality)
    require_near(inside_borders(wide), (120, 0, 520, 300), wide.size)
    tall = as_jpeg(framed(photograph(400, 300), (400, 640), (0, 100), colour), quality)
    require_near(inside_borders(tall), (0, 100, 400, 400), tall.size)


def test_a_frame_is_a_border_on_all_sides() -> None:
    picture = framed(photograph(300, 200), (600, 500), (100, 200), (30, 60, 160))
    require_near(inside_borders(picture), (100, 200, 400, 400), picture.size)


@pytest.mark.parametrize("quality", [90, 40])
@pytest.mark.parametrize("colours", [(BLACK, WHITE), (WHITE, BLACK)])
def test_a_clock_and_buttons_lie_in_the_borders_of_a_screenshot(
    colours: tuple[tuple[int, int, int], tuple[int, int, int]], quality: int
) -> None:
    screen = as_jpeg(screenshot(*colours), quality)
    require_near(inside_borders(screen), (0, 330, 540, 790), screen.size)


def test_borders_lie_one_inside_the_other() -> None:
    shown = framed(photograph(300, 100), (300, 300), (0, 100), BLACK)
    screen = framed(shown, (300, 450), (0, 75), WHITE)
    require_near(inside_borders(screen), (0, 175, 300, 275), screen.size)


def product_on(ground: Image.Image) -> Image.Image:
    drawing = ImageDraw.Draw(ground)
    width, height = ground.size
    drawing.ellipse((width * 0.2, height * 0.1, width * 0.8, height * 0.7), fill=(30, 90, 60))
    drawing.polygon([(width * 0.5, height * 0.4), (width * 0.9, height * 0.9), (width * 0.1, height * 0.9)], fill=BLACK)
    return ground


def sky(width: int, height: int) -> Image.Image:
    rows = np.linspace((90, 140, 220), (250, 240, 230), height).round().astype(np.uint8)
    return Image.fromarray(np.repeat(rows[:, None], width, axis=1))


@pytest.mark.parametrize(
    ("what", "picture"),
    [
        ("a photograph", photograph(400, 300)),
        ("a product on white", product_on(Image.new("RGB", (400, 500), WHITE))),
        ("a product on grey, as a JPEG", as_jpeg(product_on(Image.new("RGB", (400, 500), GREY)), 50)),
        ("a product before a sky", product_on(sky(400, 500))),
        ("a sky", sky(300, 400)),
        ("one colour", Image.new("RGB", (300, 300), GREY)),
        ("two colours", framed(Image.new("RGB", (150, 300), BLACK), (300, 300), (0, 0), WHITE)),
        ("a border on one side", framed(photograph(300, 200), (300, 300), (0, 100), BLACK)),
        ("a hair's breadth", framed(photograph(300, 300), (306, 306), (3, 3), BLACK)),
        ("a stamp on a page", framed(photograph(60, 60), (600, 600), (270, 270), WHITE)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_else_is_a_border(what: str, picture: Image.Image) -> None:
    assert inside_borders(picture) is None


def test_what_is_left_of_the_smallest_pictures_lies_inside_them() -> None:
    for width, height in product(range(1, 8), (1, 2, 3, 5, 8)):
        inner = photograph(max(1, width - 2), max(1, height - 2))
        box = inside_borders(framed(inner, (width, height), (1, 1), BLACK))
        assert box is None or (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height)
