"""A product somewhere in a larger picture."""

from numpy.random import Generator
from PIL import Image, ImageOps

from search.engine.pictures.crop import Crop

_SIZE = _WIDTH, _HEIGHT = 1600, 1200


def off(box: Crop, share: float, rng: Generator) -> Crop:
    """Return the box as a hurried hand draws it: each side off by up to this share of the box's size."""
    left, right = box.width * rng.uniform(-share, share, 2)
    upper, lower = box.height * rng.uniform(-share, share, 2)
    x, y = max(0.0, box.x + left), max(0.0, box.y + upper)
    return Crop(x, y, min(1.0, box.x + box.width + right) - x, min(1.0, box.y + box.height + lower) - y)


def pasted(product: Image.Image, behind: Image.Image, rng: Generator, *, area: float) -> tuple[Image.Image, Crop]:
    """Return the scene behind with the product pasted into it, on this share of the scene's area, and where."""
    scene = ImageOps.fit(behind, _SIZE)
    factor = (area * _WIDTH * _HEIGHT / (product.width * product.height)) ** 0.5
    factor = min(factor, 0.98 * _WIDTH / product.width, 0.98 * _HEIGHT / product.height)
    width, height = round(factor * product.width), round(factor * product.height)
    left, top = (int(value) for value in rng.integers(0, (_WIDTH - width, _HEIGHT - height)))
    scene.paste(product.resize((width, height), Image.Resampling.LANCZOS), (left, top))
    return scene, Crop(left / _WIDTH, top / _HEIGHT, width / _WIDTH, height / _HEIGHT)
