"""Copies of a picture as people search with them: parts of it, mirrored, turned, in other light, small, compressed."""

import math
import random
from io import BytesIO

from PIL import Image, ImageEnhance

MIN_SIDE = 512  # of the picture that copies are made from, as open_image is told
LONGEST_SIDE = 500  # of a copy

_LEAST_AREA = 0.4
_MOST_DEGREES = 10
_SHORTEST_SIDE = 150
_LIGHT = (0.75, 1.25)  # times the brightness, the contrast
_COLOUR = (0.6, 1.4)  # times the saturation
_CAST = (0.92, 1.08)  # times each of red, green and blue
_JPEG_QUALITY = (30, 90)


def altered_copy(image: Image.Image, *, seed: str) -> BytesIO:
    """Return a JPEG that shows the picture altered, at most LONGEST_SIDE pixels a side; for a seed always the same.

    image: mode RGB.
    """
    chance = random.Random(seed)  # noqa: S311
    if chance.random() < 0.5:
        image = _turned(image, chance.uniform(-_MOST_DEGREES, _MOST_DEGREES))
    image = _small_part(image, chance)
    if chance.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = _in_other_light(image, chance)
    copy = BytesIO()
    image.save(copy, "JPEG", quality=chance.randint(*_JPEG_QUALITY))
    return copy


def _turned(image: Image.Image, degrees: float) -> Image.Image:
    """Return the picture turned, without the corners that turning leaves empty."""
    turned = image.rotate(degrees, Image.Resampling.BILINEAR)
    sine, cosine = math.sin(math.radians(abs(degrees))), math.cos(math.radians(degrees))
    width, height = image.size
    # The largest picture of the same shape that a turned one of this size holds.
    share = min(width, height) / (max(width, height) * sine + min(width, height) * cosine)
    left, top = round(width * (1 - share) / 2), round(height * (1 - share) / 2)
    return turned.crop((left, top, max(left + 1, width - left), max(top + 1, height - top)))


def _small_part(image: Image.Image, chance: random.Random) -> Image.Image:
    share = math.sqrt(chance.uniform(_LEAST_AREA, 1))  # of each side
    left, top = (chance.uniform(0, side * (1 - share)) for side in image.size)
    part = image.width * share, image.height * share
    scale = chance.randint(_SHORTEST_SIDE, LONGEST_SIDE) / max(part)
    size = max(1, round(part[0] * scale)), max(1, round(part[1] * scale))
    return image.resize(size, Image.Resampling.BICUBIC, (left, top, left + part[0], top + part[1]), reducing_gap=2)


def _in_other_light(image: Image.Image, chance: random.Random) -> Image.Image:
    image = ImageEnhance.Brightness(image).enhance(chance.uniform(*_LIGHT))
    image = ImageEnhance.Contrast(image).enhance(chance.uniform(*_LIGHT))
    image = ImageEnhance.Color(image).enhance(chance.uniform(*_COLOUR))
    casts = [chance.uniform(*_CAST) for _ in range(3)]
    return image.point([min(255, round(value * cast)) for cast in casts for value in range(256)])
