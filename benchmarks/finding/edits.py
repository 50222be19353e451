"""Ways in which a picture comes back: one that changes and one that stays the picture of the same thing.

Each takes the picture as RGB, with a random generator and other pictures of the same kind, and returns the file that a
client would send.
"""

from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Picture = Image.Image
Edit = Callable[[Picture, Generator, Sequence[Picture]], bytes]

_SCREEN = (720, 1440)  # of a telephone
_DESKTOP = (1280, 720)


def encoded(picture: Picture, format: str = "JPEG", *, quality: int = 90) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format, quality=quality)
    return buffer.getvalue()


def _edit(change: Callable[[Picture, Generator], Picture]) -> Edit:
    return lambda picture, rng, others: encoded(change(picture, rng))


def _file(format: str, quality: int) -> Edit:
    return lambda picture, rng, others: encoded(picture, format, quality=quality)


# Sizes and parts


def _scaled(picture: Picture, rng: Generator, *, factor: float) -> Picture:
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.LANCZOS)


def _longer_side(picture: Picture, rng: Generator, *, side: int) -> Picture:
    return _scaled(picture, rng, factor=side / max(picture.size))


def cropped(picture: Picture, rng: Generator, *, area: float) -> Picture:
    """Return a part of the picture of its own shape, of this share of its area, from anywhere in it."""
    width, height = (max(16, round(side * area**0.5)) for side in picture.size)
    left, top = rng.integers(0, (picture.width - width + 1, picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _upper_part(picture: Picture, rng: Generator) -> Picture:
    return picture.crop((0, 0, picture.width, round(0.6 * picture.height)))


def _squared(picture: Picture, rng: Generator) -> Picture:
    side = max(picture.size)
    return picture.resize((side, side), Image.Resampling.BICUBIC)


# Borders


def _bordered(picture: Picture, rng: Generator, *, colour: str, share: float) -> Picture:
    return ImageOps.expand(picture, round(share * max(picture.size)), colour)


def _letterboxed(picture: Picture, rng: Generator) -> Picture:
    """Return the picture between black bars, wide enough for a film."""
    width = max(picture.width, round(picture.height * 16 / 9))
    return ImageOps.pad(picture, (width, max(picture.height, round(width * 9 / 16))), color="black")


def _on_telephone(picture: Picture, rng: Generator, *, colour: str, share: float, top: float) -> Picture:
    """Return a telephone's screen with nothing but the picture, on this share of its width, from top on."""
    screen = Image.new("RGB", _SCREEN, colour)
    shown = ImageOps.contain(picture, (round(share * _SCREEN[0]), round(share * _SCREEN[1])))
    screen.paste(shown, ((_SCREEN[0] - shown.width) // 2, round(top * _SCREEN[1])))
    return screen


def _telephone_with_bars(picture: Picture, rng: Generator) -> Picture:
    """Return a telephone's screen with the time on top and buttons below."""
    screen = ImageOps.pad(picture, _SCREEN, color="white")
    draw = ImageDraw.Draw(screen)
    draw.text((40, 27), f"{rng.integers(24):02}:{rng.integers(60):02}", "black", ImageFont.load_default(30))
    for place in range(4):
        left = 100 + 160 * place
        draw.ellipse((left, 1347, left + 40, 1387), outline="black", width=4)
    return screen


def _on_page(picture: Picture, rng: Generator) -> Picture:
    """Return a desktop's screen with a shop's page: the picture on the left, words on the right."""
    screen = Image.new("RGB", _DESKTOP, "white")
    draw = ImageDraw.Draw(screen)
    draw.rectangle((0, 0, _DESKTOP[0], 64), fill="#dfe3ea")
    draw.text((32, 18), "https://shop.example/products", "#333333", ImageFont.load_default(26))
    screen.paste(ImageOps.contain(picture, (608, 624)), (32, 80))
    for line in range(12):
        top = 112 + 40 * line
        draw.rectangle((720, top, 720 + int(rng.integers(160, 496)), top + 12), fill="#9aa0aa")
    return screen


# Turns


def _mirrored(picture: Picture, rng: Generator) -> Picture:
    return ImageOps.mirror(picture)


def turned(picture: Picture, rng: Generator, *, degrees: float) -> Picture:
    """Return the picture turned and cropped as an editor does it: without empty corners."""
    upright = picture.rotate(degrees, Image.Resampling.BICUBIC, expand=False)
    angle, (width, height) = np.radians(abs(degrees)), picture.size
    longer, shorter = max(width, height), min(width, height)
    keep = shorter / (longer * np.sin(angle) + shorter * np.cos(angle))
    across, down = width * keep / 2, height * keep / 2
    return upright.crop(
        (round(width / 2 - across), round(height / 2 - down), round(width / 2 + across), round(height / 2 + down))
    )


def _quarter_turned(picture: Picture, rng: Generator, *, turns: int) -> Picture:
    return picture.rotate(90 * turns, expand=True)


def _from_the_side(picture: Picture, rng: Generator) -> Picture:
    """Return the picture as a print photographed a little from the side."""
    width, height = picture.size
    inward = 0.08 * height
    corners = (0, -inward, 0, height + inward, width, height, width, 0)  # of the print, where the photograph's are
    return picture.transform((width, height), Image.Transform.QUAD, corners, Image.Resampling.BICUBIC, fillcolor="gray")


# Light and colour


def _enhanced(
    picture: Picture, rng: Generator, *, by: Callable[[Picture], ImageEnhance._Enhance], factor: float
) -> Picture:
    return by(picture).enhance(factor)


def lit(picture: Picture, *, red: float, green: float, blue: float) -> Picture:
    """Return the picture in light of another colour."""
    return Image.fromarray((np.asarray(picture) * np.array([red, green, blue])).clip(0, 255).astype(np.uint8))


def _warmer(picture: Picture, rng: Generator) -> Picture:
    return lit(picture, red=1.15, green=1.0, blue=0.8)


def _grey(picture: Picture, rng: Generator) -> Picture:
    return ImageOps.grayscale(picture).convert("RGB")


# Sharpness


def _blurred(picture: Picture, rng: Generator) -> Picture:
    return picture.filter(ImageFilter.GaussianBlur(0.006 * max(picture.size)))


def _grained(picture: Picture, rng: Generator) -> Picture:
    grain = rng.normal(0, 16, (picture.height, picture.width, 3))
    return Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8))


# Over it and beside it


def _captioned(picture: Picture, rng: Generator) -> Picture:
    captioned, high = picture.copy(), max(24, picture.height // 7)
    draw = ImageDraw.Draw(captioned)
    draw.rectangle((0, picture.height - high, picture.width, picture.height), fill="#202020")
    draw.text(
        (high // 3, picture.height - 0.8 * high), "SALE now only 19,95", "white", ImageFont.load_default(high // 2)
    )
    return captioned


def _watermarked(picture: Picture, rng: Generator) -> Picture:
    over = Image.new("RGBA", picture.size, (255, 255, 255, 0))
    draw, size = ImageDraw.Draw(over), max(12, picture.width // 12)
    for row, top in enumerate(range(0, picture.height, 3 * size)):
        draw.text((row % 3 * size, top), "SAMPLE   SAMPLE   SAMPLE", (255, 255, 255, 120), ImageFont.load_default(size))
    return Image.alpha_composite(picture.convert("RGBA"), over).convert("RGB")


def _partly_hidden(picture: Picture, rng: Generator) -> Picture:
    """Return the picture with a plain box over 12 % of it, as a sticker or a thumb."""
    hidden = picture.copy()
    width, height = round(0.35 * picture.width), round(0.35 * picture.height)
    left, top = rng.integers(0, (picture.width - width, picture.height - height))
    ImageDraw.Draw(hidden).rectangle(
        (left, top, left + width, top + height), fill=tuple(rng.integers(0, 256, 3).tolist())
    )
    return hidden


def _collage(picture: Picture, rng: Generator, others: Sequence[Picture]) -> bytes:
    """Return a square of four pictures, this one anywhere in it."""
    four = [picture, *(others[place] for place in rng.choice(len(others), 3))]
    collage = Image.new("RGB", (800, 800))
    for place, number in enumerate(rng.permutation(4)):
        collage.paste(ImageOps.fit(four[number], (400, 400)), (place % 2 * 400, place // 2 * 400))
    return encoded(collage)


COLLAGE = "collage of four"

EDITS: dict[str, Edit] = {
    "saved again, JPEG 95": _file("JPEG", 95),
    "JPEG 50": _file("JPEG", 50),
    "JPEG 20": _file("JPEG", 20),
    "WebP 50": _file("WEBP", 50),
    "half size": _edit(partial(_scaled, factor=0.5)),
    "quarter size": _edit(partial(_scaled, factor=0.25)),
    "150 pixels": _edit(partial(_longer_side, side=150)),
    "twice as large": _edit(partial(_scaled, factor=2)),
    "squashed to a square": _edit(_squared),
    "crop of 90 %": _edit(partial(cropped, area=0.9)),
    "crop of 70 %": _edit(partial(cropped, area=0.7)),
    "crop of 40 %": _edit(partial(cropped, area=0.4)),
    "upper part": _edit(_upper_part),
    "white border": _edit(partial(_bordered, colour="white", share=0.15)),
    "black border": _edit(partial(_bordered, colour="black", share=0.3)),
    "letterbox": _edit(_letterboxed),
    "white telephone screen": _edit(partial(_on_telephone, colour="white", share=0.8, top=0.1)),
    "black telephone screen": _edit(partial(_on_telephone, colour="black", share=0.5, top=0.3)),
    "telephone screen with bars": _edit(_telephone_with_bars),
    "shop page": _edit(_on_page),
    "mirrored": _edit(_mirrored),
    "turned by 5 degrees": _edit(partial(turned, degrees=5)),
    "turned by 90 degrees": _edit(partial(_quarter_turned, turns=1)),
    "upside down": _edit(partial(_quarter_turned, turns=2)),
    "from the side": _edit(_from_the_side),
    "brighter": _edit(partial(_enhanced, by=ImageEnhance.Brightness, factor=1.5)),
    "darker": _edit(partial(_enhanced, by=ImageEnhance.Brightness, factor=0.5)),
    "more contrast": _edit(partial(_enhanced, by=ImageEnhance.Contrast, factor=1.6)),
    "warmer": _edit(_warmer),
    "grey": _edit(_grey),
    "blurred": _edit(_blurred),
    "grain": _edit(_grained),
    "text over it": _edit(_captioned),
    "watermark": _edit(_watermarked),
    "an eighth hidden": _edit(_partly_hidden),
    COLLAGE: _collage,
}

BORDERS = ("white border", "black border", "letterbox", "white telephone screen", "black telephone screen")  # uniform


def altered(picture: Picture, rng: Generator) -> bytes:
    """Return the picture edited in several ways at once, each by chance: what a photograph has been through."""
    picture = cropped(picture, rng, area=rng.uniform(0.4, 1))
    if rng.random() < 0.5:
        picture = ImageOps.mirror(picture)
    picture = turned(picture, rng, degrees=rng.uniform(-10, 10))
    for by in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = by(picture).enhance(rng.uniform(0.7, 1.4))
    red, green, blue = rng.uniform(0.85, 1.15, 3)
    picture = _longer_side(lit(picture, red=red, green=green, blue=blue), rng, side=int(rng.integers(150, 501)))
    return encoded(picture, quality=int(rng.integers(30, 91)))
